"""prior.py: tokens one by one. Oracles: the transformer in NumPy's float64, hand-made priors, frequencies, laws of causality."""

import math

import numpy as np
import pytest
import torch
from oracles import normal, seeded
from torch import nn

import prior
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.no_compiler import without_compiler

pytestmark = pytest.mark.module("prior")
SMALL = {"n_tokens": 6, "n_classes": 3, "d_model": 8, "n_heads": 2, "n_layers": 2}


@pytest.fixture(autouse=True)
def quick():
    with without_compiler():
        yield


def small(seed=0, **options):
    """A small prior whose weights are not at their start."""
    model = prior.Prior(5, **SMALL | options, seed=seed)
    generator = seeded(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=generator))
    return model.eval()


def batch(n=4, n_tokens=6):
    """Unequal labels and tokens."""
    generator = seeded(5)
    return torch.randint(5, (n, n_tokens), generator=generator), torch.arange(n) % 3


@pytest.mark.grades
def test_prior_imports():
    """The module uses torch, nothing else."""
    assert_imports_only(prior, {"torch"})


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.grades("Prior")
def test_prior_parts():
    """The parts that the docstring names, and no parameters beside them."""
    model = prior.Prior(5, **SMALL, seed=3)
    shapes = {"label": (3, 8), "token": (5, 8)}
    for name, shape in shapes.items():
        got = tuple(getattr(model, name).weight.shape)
        assert got == shape, f"{name} holds {shape}, got {got}"
    assert tuple(model.position.shape) == (6, 8), f"position is (6, 8), got {tuple(model.position.shape)}"
    n = sum(p.numel() for p in model.parameters())
    parts = (3 + 5 + 6) * 8 + 2 * (12 * 8**2 + 13 * 8) + 2 * 8 + 5 * 8 + 5
    assert n == parts, (
        f"{n} parameters, where tables, two layers of 4·d_model, a last norm and the head have {parts}"
    )
    assert (model.n_codes, model.n_tokens) == (5, 6), "n_codes and n_tokens are attributes"
    assert all(p.requires_grad for p in model.parameters()), "all of it is trained"
    large = prior.Prior(200, n_tokens=50, n_classes=60, d_model=40)
    for name in ("label", "token", "position"):
        table = getattr(large, name)
        std = (table if name == "position" else table.weight).std().item()
        assert 0.018 < std < 0.022, f"{name} starts with deviation {std:.3f}, not 0.02"
    assert not torch.equal(large.label.weight[:50], large.token.weight[:50]), (
        "label and token start with the same numbers"
    )


@pytest.mark.grades("Prior")
def test_prior_defaults():
    """16 tokens, 10 classes, 64 features, 4 heads, 2 layers, seed 0."""
    model = prior.Prior(7)
    with torch.no_grad():
        got = tuple(model(torch.zeros(3, 16, dtype=torch.long), torch.tensor([0, 9, 4])).shape)
    assert got == (3, 16, 7), f"logits (3, 16, 7) for 3 images of 16 tokens of 7 codes, got {got}"
    layers = model.blocks.layers
    sizes = (*model.label.weight.shape, layers[0].self_attn.num_heads, len(layers))
    assert sizes == (10, 64, 4, 2), f"10 classes, 64 features, 4 heads, 2 layers by default, got {sizes}"
    alike = torch.equal(model.head.weight, prior.Prior(7, seed=0).head.weight)
    assert alike, "the seed is 0 by default"


@pytest.mark.grades("Prior")
def test_prior_seed():
    """One seed gives one network, and the global random state stays as it is."""
    before = torch.random.get_rng_state()
    one, two, other = (prior.Prior(5, **SMALL, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state()), "making a prior moves the global random state"
    state = [torch.cat([p.flatten() for p in model.parameters()]) for model in (one, two, other)]
    assert torch.equal(state[0], state[1]), "two priors of one seed differ"
    assert not torch.equal(state[0], state[2]), "the seed is not used"


def norm_by_numpy(x, norm):
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return centred / scale * number(norm.weight) + number(norm.bias)


def number(parameter):
    return parameter.detach().double().numpy()


def affine(x, weight, bias):
    return x @ number(weight).T + number(bias)


def by_numpy(model, tokens, labels, n_heads, *, future=False, positions=True):
    """The same network in float64, sequence by sequence, head by head; `future` lets tokens see what is to come."""
    erf = np.vectorize(math.erf)
    rows = []
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        table = number(model.token.weight)
        x = np.stack([number(model.label.weight)[label], *(table[t] for t in row[:-1])])
        x = x + number(model.position) * positions
        for layer in model.blocks.layers:
            attention = layer.self_attn
            qkv = affine(norm_by_numpy(x, layer.norm1), attention.in_proj_weight, attention.in_proj_bias)
            n, width = x.shape[0], x.shape[1] // n_heads
            heads = []
            for h in range(n_heads):
                q, k, v = (qkv[:, i * x.shape[1] + h * width :][:, :width] for i in range(3))
                scores = np.exp(q @ k.T / math.sqrt(width)) * (1 if future else np.tri(n))
                heads.append(scores / scores.sum(-1, keepdims=True) @ v)
            x = x + affine(np.concatenate(heads, -1), attention.out_proj.weight, attention.out_proj.bias)
            hidden = affine(norm_by_numpy(x, layer.norm2), layer.linear1.weight, layer.linear1.bias)
            gelu = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
            x = x + affine(gelu, layer.linear2.weight, layer.linear2.bias)
        rows.append(affine(norm_by_numpy(x, model.blocks.norm), model.head.weight, model.head.bias))
    return torch.from_numpy(np.stack(rows))


@pytest.mark.grades("Prior")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("n_heads", [1, 2])
def test_prior_equals_numpy(training, n_heads):
    """All of it from its own weights; in training too, since there is no dropout."""
    model = small(n_heads=n_heads).train(training)
    tokens, labels = batch()
    mistakes = {
        "tokens see what is still to come: the mask is missing": lambda: by_numpy(
            model, tokens, labels, n_heads, future=True
        ),
        "the places' vectors are not added": lambda: by_numpy(
            model, tokens, labels, n_heads, positions=False
        ),
    }
    with unchanged(tokens, labels):
        got = model(tokens, labels)
    expected = by_numpy(model, tokens, labels, n_heads)
    hint = "is a part left out, in another order, or with dropout?"
    assert_close(got, expected, dtype=torch.float32, rtol=1e-4, what="logits", mistakes=mistakes, hint=hint)


@pytest.mark.grades("Prior")
def test_prior_is_causal():
    """Token j is seen by the logits after it, and by none up to its own."""
    model, (tokens, labels) = small(), batch(5)
    with torch.no_grad():
        before = model(tokens, labels)
        for j in range(6):
            other = tokens.clone()
            other[:, j] = (other[:, j] + 1) % 5
            changed = (model(other, labels) - before).abs().amax(dim=(0, 2)) > 1e-4
            assert not changed[: j + 1].any(), (
                f"the logits up to place {j} see token {j}, which they are to predict"
            )
            assert changed[j + 1 :].all(), f"the logits after place {j} do not see token {j}"


@pytest.mark.grades("Prior")
def test_prior_sees_its_label_alone():
    """The label moves all logits of its own image, and of no other."""
    model, (tokens, labels) = small(), batch(4)
    other = labels.clone()
    other[1] = (other[1] + 1) % 3
    with torch.no_grad():
        changed = (model(tokens, other) - model(tokens, labels)).abs().amax(dim=2) > 1e-4
    assert changed[1].all(), "some logits do not see the label"
    assert not changed[[0, 2, 3]].any(), "another image's label moves logits: the batch is mixed up"


@pytest.mark.grades("Prior")
@pytest.mark.parametrize("shape", [(3, 5), (3, 7), (2, 6), (3, 2, 3)], ids=str)
def test_prior_refuses_other_shapes(shape):
    """Tokens are (B, n_tokens), as many rows as labels."""
    with expect_error(
        ValueError, str(shape), otherwise=f"tokens {shape} are accepted for 3 labels and 6 tokens"
    ):
        small()(torch.zeros(shape, dtype=torch.long), torch.zeros(3, dtype=torch.long))


# --- the loss ---------------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """A prior that has a table of logits per place and label, and remembers what it was asked."""

    def __init__(self, n_classes=3, n_tokens=6, n_codes=5):
        super().__init__()
        self.n_tokens, self.n_codes, self.seen, self.asked, self.modes = n_tokens, n_codes, [], [], []
        self.table = nn.Parameter(normal(n_classes, n_tokens, n_codes, generator=seeded(2)))

    def forward(self, tokens, labels):
        assert tokens.shape == (len(labels), self.n_tokens), (
            f"a prior takes tokens (B, n_tokens), got {tuple(tokens.shape)}"
        )
        self.seen.append(tokens.clone())
        self.asked.append(labels.clone())
        self.modes.append(self.training)
        return self.table[labels]


def cross_entropy(table, tokens, labels):
    """The mean of -log p of each token, by loops."""
    terms = []
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        for i, t in enumerate(row):
            logits = table[label, i].detach().double()
            terms.append(torch.logsumexp(logits, 0) - logits[t])
    return torch.stack(terms)


@pytest.mark.grades("prior_loss")
@pytest.mark.parametrize("grid", [False, True])
def test_prior_loss(grid):
    """The mean over tokens of -log p, in nats; a grid is read row by row."""
    model, (tokens, labels) = Table(), batch(7)
    given = tokens.view(7, 2, 3) if grid else tokens
    with unchanged(given, labels):
        got = prior.prior_loss(model, given, labels)
    terms = cross_entropy(model.table, tokens, labels)
    columns = tokens.view(7, 2, 3).mT.flatten(1)
    mistakes = {
        "the sum over the tokens of an image: it is the mean per token": terms.sum() / 7,
        "the sum, not the mean": terms.sum(),
        "in bits: it is in nats": terms.mean() / math.log(2),
        "the grid is read column by column": cross_entropy(model.table, columns, labels).mean(),
        "the targets are shifted: place i names token i": cross_entropy(
            model.table, tokens.roll(-1, 1), labels
        ).mean(),
    }
    assert_close(got, terms.mean(), dtype=torch.float32, n=42, what="loss", mistakes=mistakes)
    assert torch.equal(model.seen[-1], tokens), (
        "without noise the prior sees the tokens themselves, row by row"
    )
    assert got.requires_grad, "the loss is detached from the prior"


@pytest.mark.grades("prior_loss")
def test_prior_loss_noise():
    """With noise so many of the tokens that the prior sees are any others; those that it names stay."""
    model, generator = Table(), seeded(4)
    tokens, labels = torch.randint(5, (3000, 6), generator=generator), torch.arange(3000) % 3
    before = torch.random.get_rng_state()
    for noise in (0.3, 1.0):
        got = prior.prior_loss(model, tokens, labels, noise=noise, generator=seeded(1))
        plain = prior.prior_loss(model, tokens, labels, generator=seeded(1))
        assert abs(got - plain) < 1e-5, (
            "the noise changes the tokens that are to be named: only those that are seen"
        )
        seen = model.seen[-2]
        changed, expected = (
            (seen != tokens).double().mean().item(),
            0.8 * noise,
        )  # one in five is the same by chance
        spread = 5 * math.sqrt(0.25 / 18000)
        assert abs(changed - expected) < spread, (
            f"noise {noise}: {changed:.3f} of the tokens change, expected {expected:.3f}"
        )
        shares = seen.flatten().bincount(minlength=5) / 18000
        assert seen.min() >= 0, "a token below 0 is seen"
        assert (shares - 0.2).abs().max() < spread, f"not all codes are as likely: {shares.tolist()}"
        by_place = (seen != tokens).double().mean(0)
        assert (by_place - expected).abs().max() < 5 * math.sqrt(0.25 / 3000), (
            "some places are changed more often"
        )
        prior.prior_loss(model, tokens, labels, noise=noise, generator=seeded(1))
        assert torch.equal(model.seen[-1], seen), "one seed gives two sets of noise"
        prior.prior_loss(model, tokens, labels, noise=noise, generator=seeded(2))
        assert not torch.equal(model.seen[-1], seen), "the noise does not come from the generator"
    assert torch.equal(before, torch.random.get_rng_state()), "the noise moves the global random state"


# --- drawing ----------------------------------------------------------------------------------------------------------


class Chain:
    """A prior whose token depends on the label and the one before: a Markov chain, one matrix per label."""

    n_tokens, n_codes = 4, 3

    def __init__(self):
        self.start = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0]])
        generator = seeded(11)
        self.step = normal(2, 3, 3, generator=generator)
        self.grad = []

    def __call__(self, tokens, labels):
        self.grad.append(torch.is_grad_enabled())
        logits = [self.start[labels], *(self.step[labels, tokens[:, i]] for i in range(3))]
        return torch.stack(logits, dim=1)

    def probabilities(self, temperature, top_k):
        """Return p of each sequence, (2, 3, 3, 3, 3), by products in float64."""

        def soft(logits):
            logits = logits.double()
            if top_k is not None:
                least = logits.sort(dim=-1, descending=True).values[..., [top_k - 1]]
                logits = logits.masked_fill(logits < least, -torch.inf)
            return torch.softmax(logits / temperature, dim=-1)

        start, step = soft(self.start), soft(self.step)
        return torch.einsum("la,lab,lbc,lcd->labcd", start, step, step, step)


@pytest.mark.grades("sample")
@pytest.mark.parametrize(
    ("temperature", "top_k"),
    [(1.0, None), (0.5, None), (2.0, None), (1.0, 2), (2.0, 2), (1.0, 3), (1.0, 99)],
    ids=str,
)
def test_sample_has_the_right_frequencies(temperature, top_k):
    """Every sequence as often as the product of its probabilities; 30,000 for each label."""
    chain, n = Chain(), 30_000
    labels = torch.tensor([0, 1]).repeat(n)
    options = {"top_k": top_k} if temperature == 1 else {"temperature": temperature, "top_k": top_k}
    got = prior.sample(chain, labels, **options, generator=seeded(1))
    assert got.shape == (2 * n, 4), f"tokens are (B, n_tokens), got {tuple(got.shape)}"
    assert got.dtype == torch.int64, f"tokens are int64, got {got.dtype}"
    place = torch.tensor([27, 9, 3, 1])
    counts = [(got[labels == label] * place).sum(-1).bincount(minlength=81) for label in (0, 1)]
    shares = torch.stack(counts).double() / n
    limit = min(top_k or 3, 3)

    def far(p):
        return bool(((shares - p).abs() > 5.5 * ((p * (1 - p)).clamp(min=1e-6) / n).sqrt() + 1e-9).any())

    expected = chain.probabilities(temperature, limit).view(2, 81)
    others = {
        "the temperature is not used": chain.probabilities(1.0, limit),
        "the logits are multiplied by the temperature, not divided": chain.probabilities(
            1 / temperature, limit
        ),
        "top_k is not used": chain.probabilities(temperature, 3),
        "the likeliest is always taken": chain.probabilities(1e-3, 1),
    }
    if far(expected):
        cause = next(
            (text for text, p in others.items() if not far(p.view(2, 81))),
            "other frequencies than the prior's",
        )
        worst = (shares - expected).abs().argmax().item()
        raise AssertionError(
            f"{cause}\nsequence {worst}: drawn with frequency {shares.flatten()[worst]:.4f}, "
            f"expected {expected.flatten()[worst]:.4f}"
        )


@pytest.mark.grades("sample")
@pytest.mark.parametrize("temperature", [0, 0.0, 1e-40, 1e-4])
def test_sample_at_temperature_zero(temperature):
    """Temperature 0, and what is nearly 0, takes the likeliest token after the likeliest token."""
    chain, labels = Chain(), torch.tensor([1, 0, 0, 1, 0])
    got = prior.sample(chain, labels, temperature=temperature, generator=seeded(1))
    expected = []
    for label in labels.tolist():
        row = [int(chain.start[label].argmax())]
        while len(row) < 4:
            row.append(int(chain.step[label, row[-1]].argmax()))
        expected.append(row)
    hint = "temperature → 0 is argmax at each place, given the tokens before"
    assert_close(got, torch.tensor(expected), what=f"tokens at temperature {temperature}", hint=hint)
    one = prior.sample(chain, labels, top_k=1, generator=seeded(1))
    assert_close(
        one, torch.tensor(expected), what="tokens with top_k=1", hint="only the likeliest may be drawn"
    )


@pytest.mark.grades("sample")
def test_sample_generator():
    """One seed gives one set of samples; the global random state stays as it is; nothing is recorded for a gradient."""
    chain, labels = Chain(), torch.arange(400) % 2
    before = torch.random.get_rng_state()
    with unchanged(labels):
        one, two, other = (prior.sample(chain, labels, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state()), "drawing moves the global random state"
    assert torch.equal(one, two), "one seed gives two sets of samples"
    assert not torch.equal(one, other), "the generator is not used"
    assert len({tuple(row) for row in one.tolist()}) > 20, "all images are drawn alike"
    assert not any(chain.grad), "the prior is asked with gradients on, which takes memory for nothing"


@pytest.mark.grades("sample")
@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_k": 0}, {"top_k": -2}], ids=str)
def test_sample_refuses(options):
    """A temperature below 0, and nothing to draw from."""
    (value,) = options.values()
    with expect_error(ValueError, str(value), otherwise=f"{options} is accepted"):
        prior.sample(Chain(), torch.tensor([0, 1]), **options)


# --- training ---------------------------------------------------------------------------------------------------------


def replayed(rows, tokens, *, rate, wrong=None):
    """Train a table as `train_prior` is to, on the same batches; return the table and the mean loss per epoch."""
    model, losses, step = Table(n_classes=10), [], 0
    kind = torch.optim.Adam if wrong == "Adam" else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=rate, weight_decay=0.0 if wrong == "decay" else 0.1)
    for epoch in rows:
        total = 0.0
        for batch in epoch:
            fall = 1 if wrong == "constant" else 1 - step / sum(map(len, rows))
            optimizer.param_groups[0]["lr"] = rate * fall
            loss = nn.functional.cross_entropy(model.table[batch].flatten(0, 1), tokens[batch].flatten())
            if wrong != "zero_grad":
                optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * (1 / len(epoch) if wrong == "batches" else len(batch) / 10)
            step += 1
        losses.append(total)
    return model.table.detach(), torch.tensor(losses)


@pytest.fixture
def lent_loss(monkeypatch):
    """Lend a right loss, and remember its noise."""
    asked = []

    def prior_loss(model, tokens, labels, *, noise=0.0, generator=None):
        asked.append((noise, generator, tokens.flatten(1).clone()))
        return nn.functional.cross_entropy(model(tokens.flatten(1), labels).flatten(0, 1), tokens.flatten())

    monkeypatch.setattr(prior, "prior_loss", prior_loss)
    return asked


@pytest.mark.grades("train_prior")
def test_train_prior_step_by_step(lent_loss):
    """Ten images in batches of four, three epochs: the same batches, replayed, give the same table and losses."""
    model, tokens = Table(n_classes=10), torch.randint(5, (10, 6), generator=seeded(6))
    before = torch.random.get_rng_state()
    with unchanged(tokens):
        losses = prior.train_prior(
            model.eval(), tokens, torch.arange(10), 3, batch_size=4, learning_rate=0.05, noise=0.7, seed=5
        )
    assert torch.equal(before, torch.random.get_rng_state()), "training moves the global random state"
    sizes = [len(batch) for batch in model.asked]
    assert sizes == [4, 4, 2] * 3, f"10 images in batches of 4, three times: {sizes}"
    epochs = [model.asked[3 * i : 3 * i + 3] for i in range(3)]
    orders = [torch.cat(epoch).tolist() for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders), (
        "an epoch has each image once, with its own label"
    )
    assert orders[0] != orders[1] != orders[2] != orders[0], "each epoch has a new order"
    pairs = zip(lent_loss, model.asked, strict=True)
    assert all(torch.equal(seen, tokens[batch]) for (_, _, seen), batch in pairs), (
        "tokens and labels of other images"
    )
    assert all(model.modes), "the prior is not set to training"
    assert {noise for noise, _, _ in lent_loss} == {0.7}, "noise is not handed on to prior_loss"
    assert all(generator is not None for _, generator, _ in lent_loss), (
        "the noise needs the generator of `seed`"
    )
    expected, wanted = replayed(epochs, tokens, rate=0.05)
    kinds = {
        "Adam": "trained with Adam, whose weight decay is another: AdamW",
        "decay": "the weights do not decay: weight_decay is 0.1",
        "constant": "the rate does not fall to 0 in a line, step by step",
        "zero_grad": "gradients add up from batch to batch: zero_grad is missing",
    }
    mistakes = {text: replayed(epochs, tokens, rate=0.05, wrong=kind)[0] for kind, text in kinds.items()}
    assert_close(
        model.table.detach(), expected, rtol=1e-4, what="the prior after training", mistakes=mistakes
    )
    assert isinstance(losses, list), f"the losses are a list of floats, got {type(losses).__name__}"
    mistakes = {
        "an incomplete batch counts as much as a whole one": replayed(
            epochs, tokens, rate=0.05, wrong="batches"
        )[1]
    }
    assert_close(torch.tensor(losses), wanted, rtol=1e-4, what="mean loss per epoch", mistakes=mistakes)


@pytest.mark.grades("train_prior")
def test_train_prior_seed(lent_loss):
    """One seed gives one order, another seed another; the defaults are seed 0, 64 images a batch, and some noise."""
    orders = []
    for options in ({}, {"seed": 0}, {"seed": 2}):
        model = Table(n_classes=70)
        before = model.table.detach().clone()
        prior.train_prior(model, torch.zeros(70, 6, dtype=torch.long), torch.arange(70), 1, **options)
        step = (
            (model.table - before).abs().max().item()
        )  # two steps of Adam, of about the rate and half of it
        assert 1e-3 < step < 6e-3, f"two steps move a weight by {step:.4f}: the rate is 0.002 by default"
        assert len(model.asked) == 2, f"70 images in batches of 64 by default, got {len(model.asked)}"
        orders.append(torch.cat(model.asked).tolist())
    assert orders[0] == orders[1] != orders[2], "the order does not come from the seed"
    assert 0 < lent_loss[-1][0] < 1, (
        "without noise the prior learns few digits by heart: noise is on by default"
    )


@pytest.mark.grades("Prior", "prior_loss", "sample", "train_prior")
def test_prior_learns_a_language():
    """Counting on by the label, mod 5: a tiny prior learns it and draws sequences that keep the rule."""
    generator = seeded(3)
    labels = torch.arange(300) % 3
    first = torch.randint(5, (300, 1), generator=generator)
    tokens = (first + labels[:, None] * torch.arange(4)) % 5
    model = prior.Prior(5, n_tokens=4, n_classes=3, d_model=16, n_heads=2, n_layers=1)
    losses = prior.train_prior(model, tokens, labels, 40, learning_rate=1e-2, noise=0.0)
    floor = math.log(5) / 4  # the first token cannot be known
    assert losses[-1] < floor + 0.1, f"loss {losses[-1]:.2f} after 40 epochs, {floor:.2f} can be reached"
    asked = torch.arange(300) % 3
    got = prior.sample(model.eval(), asked, generator=generator)
    right = (got == (got[:, :1] + asked[:, None] * torch.arange(4)) % 5).all(dim=1).double().mean().item()
    assert right > 0.9, f"only {right:.0%} of the drawn sequences keep the rule"

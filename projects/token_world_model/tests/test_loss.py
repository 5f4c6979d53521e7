"""The loss. Oracle: a world whose logits stand in tables, and the three means taken from them in float64."""

import math

import pytest
import torch
from oracles import WORDS, gradients, interleave, lend, pieces, seeded
from toys import Table

import token_world_model
from shared.testing.checks import assert_close, unchanged
from world import Episodes

pytestmark = pytest.mark.grades("world_loss")


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """interleave need not be written."""
    lend(monkeypatch, "interleave")


def episodes(n, n_steps, generator):
    """Pieces of episodes: rewards of several sizes, some ends."""
    text, images, actions = pieces(n, n_steps, generator, last_action=False)
    rewards = torch.tensor([-3.0, 0.0, 0.5, 1.0])[torch.randint(0, 4, actions.shape, generator=generator)]
    ends = torch.rand(actions.shape, generator=generator) < 0.4
    return Episodes(text, images, actions, rewards, ends)


def surprise(logits, true):
    """-log p of what was true, float64."""
    log_p = logits.double() - logits.double().logsumexp(-1, keepdim=True)
    return -log_p.gather(-1, true[..., None])[..., 0]


class Parts:
    """The three surprises of an episode, told by the tables."""

    def __init__(self, world, data):
        image, reward, end = world.by_hand(data.text, data.images, data.actions)
        self.image = surprise(image, data.images)
        self.classes = data.rewards.sign().long() + 1
        self.reward, self.end = surprise(reward, self.classes), surprise(end, data.ends.long())
        self.logits = image, reward, end

    def total(self, *, image=None, reward=None, end=None):
        return sum(
            (own if other is None else other).mean()
            for own, other in ((self.image, image), (self.reward, reward), (self.end, end))
        )


def mistakes_of(world, data):
    """assert_close's `mistakes` for a loss without dropped texts."""
    p = Parts(world, data)
    _, reward, end = p.logits
    n, n_steps, n_image = data.images.shape
    rows = world.logits(token_rows(data))
    codes, flat = rows[..., : WORDS.n_codes], torch.arange(rows.shape[1])
    place = flat % WORDS.step
    of_image = (place >= 1) & (place <= n_image)
    at_text = (place == 0) & (flat > 0)
    at_last = (place == n_image) & (flat < rows.shape[1] - 1)
    own = surprise(codes[:, of_image].unflatten(1, (n_steps, n_image)), data.images)
    r, e = rows[..., WORDS.n_codes : WORDS.n_codes + 3], rows[..., WORDS.n_codes + 3 :]
    return {
        "the target is not shifted: each token is asked for at its own place, where it is read already": p.total(
            image=own
        ),
        "the first image is left out: all image tokens count": p.total(image=p.image[:, 1:]),
        "the last image is left out: all image tokens count": p.total(image=p.image[:, :-1]),
        "the first token of each image is left out: it is said at the text": p.total(image=p.image[..., 1:]),
        "the last token of each image is left out": p.total(image=p.image[..., :-1]),
        "the reward is read one token late, at the text: it is said at the action": p.total(
            reward=surprise(r[:, at_text], p.classes)
        ),
        "the reward is read at the image's last token: it is said at the action": p.total(
            reward=surprise(r[:, at_last], p.classes)
        ),
        "the end is read one token late, at the text: it is said at the action": p.total(
            end=surprise(e[:, at_text], data.ends.long())
        ),
        "the end is read at the image's last token: it is said at the action": p.total(
            end=surprise(e[:, at_last], data.ends.long())
        ),
        "reward and end are read one token late, at the text": p.total(
            reward=surprise(r[:, at_text], p.classes), end=surprise(e[:, at_text], data.ends.long())
        ),
        "reward and end are read at the image's last token": p.total(
            reward=surprise(r[:, at_last], p.classes), end=surprise(e[:, at_last], data.ends.long())
        ),
        "the reward's classes are turned round: -1 is class 0, 1 is class 2": p.total(
            reward=surprise(reward, 2 - p.classes)
        ),
        "a reward that is not 1 or -1 is cut off to a whole number: its sign counts": p.total(
            reward=surprise(reward, data.rewards.clamp(-1, 1).long() + 1)
        ),
        "the ends are turned round: class 1 ends": p.total(end=surprise(end, 1 - data.ends.long())),
        "the reward is left out": p.image.mean() + p.end.mean(),
        "the end is left out": p.image.mean() + p.reward.mean(),
        "the image is left out": p.reward.mean() + p.end.mean(),
        "the image tokens are added up in each image: it is their mean that counts": p.total(
            image=n_image * p.image
        ),
        "all are sums: means are asked for": p.image.sum() + p.reward.sum() + p.end.sum(),
        "the image tokens are summed: it is their mean that counts": p.total(image=p.image.sum()),
        "one mean over all tokens: each of the three has a mean of its own": torch.cat(
            [x.flatten() for x in (p.image, p.reward, p.end)]
        ).mean(),
        "the three means are averaged: they are added": p.total() / 3,
        "the sign of the loss is turned": -p.total(),
        "the episodes are added up: a mean is asked for": n * p.total(),
    }


def token_rows(data):
    """The tokens of episodes up to the last image."""
    return interleave(data.text, data.images, data.actions, WORDS)


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_steps"), [(3, 4), (1, 2)])
def test_loss_contract(n, n_steps, generator):
    """A float32 scalar that leads back to the world; inputs stay as they are."""
    world, data = Table(), episodes(n, n_steps, generator)
    data = data._replace(rewards=data.rewards.sign())
    with unchanged(*data):
        loss = token_world_model.world_loss(world, data, generator=seeded())
    assert isinstance(loss, torch.Tensor), f"a {type(loss).__name__} is returned, expected a tensor"
    assert loss.shape == (), f"the loss has shape {tuple(loss.shape)}: it is one number"
    assert loss.dtype == torch.float32, f"the loss is {loss.dtype}, expected float32"
    gradients(loss, (world.weight,))


def test_what_is_read(generator):
    """The tokens of the episodes, up to the last image; nothing is made up behind it."""
    world, data = Table(), episodes(60, 3, generator)
    token_world_model.world_loss(world, data, drop_text=0.0, generator=seeded())
    assert world.read, "the world is not asked at all"
    assert len(world.read) == 1, f"the world is called {len(world.read)} times: once"
    right = token_rows(data)
    got = torch.cat(world.read)
    least = right.shape[1] - 1  # who leaves out the last token needs nothing that is said there
    assert got.shape[1] >= least, (
        f"the world reads {got.shape[1]} tokens of three steps, {right.shape[1]} are there"
    )
    mistakes = {
        "drop_text is turned round: with probability drop_text the text goes": interleave(
            0 * data.text, data.images, data.actions, WORDS
        )[:, :least]
    }
    texts, own = got[:, 0] - WORDS.n_codes, data.text
    hint = "a text is dropped though drop_text is 0" if ((texts == 0) & (own > 0)).any() else None
    assert_close(
        got[:, :least], right[:, :least], what="tokens that the world reads", mistakes=mistakes, hint=hint
    )


# --- the number -------------------------------------------------------------------------------------------------------


def test_loss_of_one_step():
    """Two images, one action; the reward is 1, the game ends. Each surprise is read off the table."""
    world = Table(seed=3)
    text, images, actions = (
        torch.tensor([2]),
        torch.tensor([[[1, 6, 0, 3], [2, 2, 5, 4]]]),
        torch.tensor([[3]]),
    )
    data = Episodes(text, images, actions, torch.tensor([[1.0]]), torch.tensor([[True]]))
    rows = world.logits(token_rows(data))[0].double()
    log_p = [rows[i, :7] - rows[i, :7].logsumexp(0) for i in range(11)]
    tokens = [
        (0, 1),
        (1, 6),
        (2, 0),
        (3, 3),
        (6, 2),
        (7, 2),
        (8, 5),
        (9, 4),
    ]  # (place of the sequence, what comes next)
    image = -sum(log_p[i][token] for i, token in tokens) / 8
    at_action = rows[5]
    reward, end = at_action[7:10].logsumexp(0) - at_action[9], at_action[10:].logsumexp(0) - at_action[11]
    got = token_world_model.world_loss(world, data, drop_text=0.0)
    assert_close(
        got,
        image + reward + end,
        dtype=torch.float32,
        rtol=1e-5,
        what="loss of one step",
        mistakes=mistakes_of(world, data),
    )


@pytest.mark.parametrize(("n", "n_steps"), [(5, 4), (2, 7), (3, 2)])
def test_loss(n, n_steps, generator):
    """Means of the tables' surprises: over all image tokens, and over all actions."""
    world, data = Table(), episodes(n, n_steps, generator)
    expected = Parts(world, data).total()
    got = token_world_model.world_loss(world, data, drop_text=0.0)
    hint = "not the three means: over all image tokens, the first image's too, and two over all actions"
    assert_close(
        got,
        expected,
        dtype=torch.float32,
        rtol=1e-5,
        what="loss",
        mistakes=mistakes_of(world, data),
        hint=hint,
    )


def test_sign_of_the_reward(generator):
    """Rewards of 7, 0.25 and -0.5 are the classes 2, 2 and 0."""
    world, data = Table(), episodes(3, 4, generator)
    size = torch.tensor([[7.0, -0.5, 0.25], [0.0, -20.0, 1.0], [0.25, 0.0, -1.0]])
    data = data._replace(rewards=size)
    with unchanged(*data):
        got = token_world_model.world_loss(world, data, drop_text=0.0)
    expected = Parts(world, data).total()
    mistakes = mistakes_of(world, data)
    assert_close(
        got, expected, dtype=torch.float32, rtol=1e-5, what="loss of rewards of any size", mistakes=mistakes
    )


def test_loss_is_finite():
    """Logits that are far apart: log p, not the logarithm of a probability that became 0."""

    class Sure(Table):
        def logits(self, tokens):
            return 300 * super().logits(tokens)

    world = Sure()
    data = episodes(3, 3, seeded(2))
    got = token_world_model.world_loss(world, data, drop_text=0.0)
    assert got.isfinite(), (
        "the loss is not finite where the world is sure: take the logarithm of the softmax in one"
    )
    assert_close(
        got, Parts(world, data).total(), dtype=torch.float32, rtol=1e-4, what="loss of a world that is sure"
    )


def test_gradient_of_the_loss(generator):
    """By differences, in the weight that multiplies all logits."""
    world, data = Table(), episodes(3, 3, generator)
    (got,) = gradients(token_world_model.world_loss(world, data, drop_text=0.0), (world.weight,))

    def total(weight):
        image, reward, end = (weight * x.double() for x in Parts(world, data).logits)
        parts = (
            surprise(image, data.images),
            surprise(reward, data.rewards.sign().long() + 1),
            surprise(end, data.ends.long()),
        )
        return sum(part.mean() for part in parts)

    expected = (total(1 + 1e-5) - total(1 - 1e-5)) / 2e-5
    assert_close(
        got,
        expected,
        dtype=torch.float32,
        rtol=1e-3,
        what="gradient",
        hint="part of the loss is detached from the world",
    )


# --- dropped texts ----------------------------------------------------------------------------------------------------


def texts_read(data, *, drop_text=None, generator=None):
    """The texts that the world reads, (B, T), and its loss; it evaluates, which changes nothing."""
    world = Table().eval()
    options = {} if drop_text is None else {"drop_text": drop_text}
    loss = token_world_model.world_loss(world, data, generator=generator, **options)
    assert len(world.read) == 1, f"the world is called {len(world.read)} times: once"
    read = torch.cat(world.read)
    assert len(read) == len(data.text), f"the world reads {len(read)} sequences for {len(data.text)} episodes"
    return read[:, :: WORDS.step] - WORDS.n_codes, loss


def test_no_text_is_dropped(generator):
    """drop_text 0: each episode has its own text."""
    data = episodes(400, 2, generator)
    got, _ = texts_read(data, drop_text=0.0, generator=seeded())
    mistakes = {"drop_text is turned round: with probability drop_text the text goes": torch.zeros_like(got)}
    assert_close(got, data.text[:, None].expand_as(got), what="texts with drop_text 0", mistakes=mistakes)


def test_all_texts_are_dropped(generator):
    """drop_text 1: text 0 everywhere."""
    data = episodes(400, 2, generator)
    got, loss = texts_read(data, drop_text=1.0, generator=seeded())
    right = torch.zeros_like(got)
    mistakes = {"texts stay though drop_text is 1": data.text[:, None].expand_as(got)}
    why = "text 0 is no text: it stands in all of them"
    assert_close(got, right, what="texts with drop_text 1", mistakes=mistakes, vacuous_ok=why)
    without = data._replace(text=0 * data.text)
    assert_close(
        loss, Parts(Table(), without).total(), dtype=torch.float32, rtol=1e-5, what="loss without any text"
    )


@pytest.mark.parametrize("drop_text", [0.5, 0.2, None])
def test_share_of_dropped_texts(drop_text, generator):
    """Each episode's text goes with that probability, whole; by default one in ten."""
    data = episodes(600, 2, generator)
    got, loss = texts_read(data, drop_text=drop_text, generator=seeded(1))
    p = 0.1 if drop_text is None else drop_text
    gone = got == 0
    assert (gone == gone[:, :1]).all(), (
        "a text is dropped in some steps of an episode and not in others: one draw per episode"
    )
    kept = got[~gone[:, 0]]
    expected = data.text[~gone[:, 0], None].expand_as(kept)
    assert_close(
        kept, expected, what="texts that stay", hint="a dropped text becomes 0, others stay what they are"
    )
    share = float(gone[:, 0].double().mean())
    bound = 5 * math.sqrt(p * (1 - p) / 600)
    turned = (
        ": is it one draw for all?"
        if share in (0, 1)
        else ": drop_text is turned round"
        if abs(share - (1 - p)) < bound
        else ""
    )
    ignored = ": drop_text is ignored" if abs(share - 0.1) < 0.03 else ""
    assert abs(share - p) < bound, (
        f"{share:.3f} of 600 texts are dropped, drop_text is {p}{turned or ignored}"
    )
    again = data._replace(text=got[:, 0])
    right = Parts(Table(), again).total()
    mistakes = {
        "only the episodes that keep their text count": Parts(
            Table(), Episodes(*(x[~gone[:, 0]] for x in data))
        ).total()
    }
    assert_close(
        loss, right, dtype=torch.float32, rtol=1e-4, what="loss where texts are dropped", mistakes=mistakes
    )


def test_generator_of_the_loss(generator):
    """The draws come from it: same seed, same texts; torch's own generator stays."""
    data = episodes(200, 2, generator)
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        one, other = (texts_read(data, drop_text=0.5, generator=seeded(seed))[0] for seed in (1, 2))
        moved = not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(8)
        again = texts_read(data, drop_text=0.5, generator=seeded(1))[0]
    same = torch.equal(one, again)
    assert same, (
        "the dropped texts are not drawn from the generator that is passed: the same seed drops others"
    )
    assert not moved, "torch's global generator has moved: draw from the one that is passed"
    same = torch.equal(one, other)
    assert not same, "another seed drops the same texts"


def test_generator_of_the_loss_moves_on(generator):
    """Two losses from one generator drop other texts; without one, torch's own draws."""
    data, source = episodes(200, 2, generator), seeded(3)
    one, other = (texts_read(data, drop_text=0.5, generator=source)[0] for _ in range(2))
    same = torch.equal(one, other)
    assert not same, "two losses from one generator drop the same texts: it is to move on"
    with torch.random.fork_rng():
        torch.manual_seed(8)
        one, other = (texts_read(data, drop_text=0.5)[0] for _ in range(2))
    same = torch.equal(one, other)
    assert not same, "without a generator the same texts are dropped each time"


def test_texts_are_dropped_apart(generator):
    """Each has a chance of its own: of two with drop_text 1/2 now both go, now one, now none."""
    data, source = episodes(2, 2, generator), seeded(6)
    gone = [(texts_read(data, drop_text=0.5, generator=source)[0][:, 0] == 0).sum().item() for _ in range(60)]
    assert set(gone) == {0, 1, 2}, (
        f"of two texts with drop_text 0.5 {sorted(set(gone))} go in sixty calls, expected 0, 1 and 2"
    )
    data = episodes(1, 2, generator)
    gone = [texts_read(data, drop_text=0.5, generator=source)[0][0, 0].item() == 0 for _ in range(40)]
    assert any(gone), "the text of a single episode is never dropped"
    assert not all(gone), "the text of a single episode is always dropped"


def test_loss_in_double_precision(generator):
    """A world in float64 gives a float64 loss."""

    class Wide(Table):
        def logits(self, tokens):
            return super().logits(tokens).double()

    world, data = Wide().double(), episodes(3, 3, generator)
    got = token_world_model.world_loss(world, data, drop_text=0.0)
    assert_close(got, Parts(Table(), data).total(), rtol=1e-6, what="loss in float64")

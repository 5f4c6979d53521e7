"""Guidance, the cut to k, draws, the next frame. Oracles: numbers by hand, ranks, and a world of tables that is asked again.

A right answer may draw in any way, so draws are judged by their law, in thousands.
"""

import pytest
import torch
from oracles import (
    DOUBLE,
    WORDS,
    check_shares,
    gradients,
    guide,
    interleave,
    lend,
    normal,
    pieces,
    seeded,
    top_k,
)
from toys import Coins, Table

import token_world_model
from shared.testing.checks import assert_close, expect_error, unchanged
from world import PLAIN, Cache, Sampling

GREEDY = Sampling(temperature=0.0)
LOGITS = (1.0, -0.5, 2.0, 0.3, 1.4)  # of five classes; no two are equal


# --- guide ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("guide")
@pytest.mark.parametrize("guidance", [0.3, 2.0, 0.0, 1.0, -1.0])
def test_guidance(guidance):
    """0 is without the text, 1 with it; between and beyond on the same line."""
    with_text, without = torch.tensor([[1.0, 4.0], [0.0, -2.0]]), torch.tensor([[3.0, 1.0], [0.5, 6.0]])
    expected = torch.tensor([[3 - 2 * guidance, 1 + 3 * guidance], [0.5 - 0.5 * guidance, 6 - 8 * guidance]])
    with unchanged(with_text, without):
        got = token_world_model.guide(with_text, without, guidance)
    c, u, g = with_text, without, guidance
    mistakes = {
        **({"guidance 0 is taken for none: it leaves the text out": c} if g == 0 else {}),
        "negative guidance is cut at 0: the line goes on": u + max(g, 0) * (c - u),
        "the two are exchanged: 0 is without the text, 1 with it": c + g * (u - c),
        "the guidance is one too great: at 0 the logits are those without text, 1 is plain": c + g * (c - u),
        "the logits without text are left out": g * c,
        "the guidance is cut at 1: beyond it the line goes on": u + min(g, 1) * (c - u),
        "the guidance is ignored": c,
        "the difference is taken the wrong way round": u + g * (u - c),
        "probabilities are mixed, not logits": lambda: (g * c.softmax(-1) + (1 - g) * u.softmax(-1)).log(),
        "log-probabilities are mixed, not the logits": guide(c.log_softmax(-1), u.log_softmax(-1), g),
    }
    assert_close(got, expected, rtol=1e-6, what=f"logits with guidance {guidance}", mistakes=mistakes)


@pytest.mark.grades("guide")
def test_guidance_of_batches(generator):
    """Any shape and dtype."""
    for dtype in (torch.float32, DOUBLE):
        with_text, without = (normal(3, 2, 7, generator=generator, dtype=dtype) for _ in range(2))
        got = token_world_model.guide(with_text, without, 3.0)
        assert_close(
            got,
            guide(with_text, without, 3.0),
            rtol=1e-5,
            what="guided logits",
            hint="unconditional + guidance·(conditional - unconditional)",
        )


@pytest.mark.grades("guide")
def test_gradients_of_guidance(generator):
    """Both logits have a share of it."""
    both = [normal(2, 3, generator=generator).requires_grad_() for _ in range(2)]
    got = gradients(token_world_model.guide(*both, 3.0).sum(), both)
    for name, mine, right in zip(("with", "without"), got, (3.0, -2.0), strict=True):
        hint = f"the logits {name} text are detached from what is returned"
        assert_close(
            mine,
            torch.full((2, 3), right),
            what=f"gradient of the logits {name} text",
            hint=hint,
            vacuous_ok="the formula is linear",
        )


# --- top_k ------------------------------------------------------------------------------------------------------------


@pytest.mark.grades("top_k")
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_by_hand(k):
    """What stays keeps its value, all else is -inf."""
    logits = torch.tensor([LOGITS, tuple(-x for x in LOGITS), (0.0, 5.0, -3.0, 7.0, 1.0)])
    with unchanged(logits):
        got = token_world_model.top_k(logits, k)
    ranks = torch.tensor([[2, 4, 0, 3, 1], [2, 0, 4, 1, 3], [3, 1, 4, 0, 2]])
    expected = torch.where(ranks < k, logits, -torch.inf)
    log_p = logits.log_softmax(-1)
    mistakes = {
        "the k smallest are kept": torch.where(ranks >= 5 - k, logits, -torch.inf),
        "one too many is kept: k are": torch.where(ranks < k + 1, logits, -torch.inf),
        "one too few is kept: k are": torch.where(ranks < k - 1, logits, -torch.inf),
        "what is cut becomes 0: a logit of 0 is no -inf": torch.where(ranks < k, logits, 0.0),
        "what is cut gets a large negative number, not -inf": torch.where(ranks < k, logits, -1e9),
        "what is cut gets the least number that there is, not -inf": torch.where(
            ranks < k, logits, torch.finfo(torch.float32).min
        ),
        "the first k are kept, not the greatest": torch.where(torch.arange(5) < k, logits, -torch.inf),
        "log-probabilities are returned: the logits keep their values": torch.where(
            ranks < k, log_p, -torch.inf
        ),
        "log-probabilities of what is kept are returned: the logits keep their values": expected.log_softmax(
            -1
        ),
        "probabilities are returned: the logits keep their values": expected.softmax(-1),
        "one order for all rows: each row has its own greatest": torch.where(
            ranks[:1] < k, logits, -torch.inf
        ),
    }
    assert_close(got, expected, what=f"the {k} greatest", mistakes=mistakes)


@pytest.mark.grades("top_k")
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_of_equal_logits(k):
    """Of equal ones as many stay as make k."""
    logits = torch.tensor([[2.0, 2.0, 2.0, 2.0, 2.0], [1.0, 3.0, 1.0, 3.0, 1.0], [0.0, 4.0, 4.0, 4.0, -1.0]])
    got = token_world_model.top_k(logits, k)
    kept = got.isfinite()
    counts = kept.sum(-1).tolist()
    hint = "equal ones all stay: of them as many as make k" if min(counts) >= k else "too few stay"
    assert counts == [k] * 3, f"{counts} logits of the rows are kept, k is {k}: {hint}"
    assert torch.equal(got[kept], logits[kept]), "what stays has lost its value"
    sums = [row[stays].sum().item() for row, stays in zip(logits, kept, strict=True)]
    expected = [sum(sorted(row, reverse=True)[:k]) for row in logits.tolist()]
    assert sums == expected, (
        f"a smaller logit is kept where a greater one is cut: the sums are {sums}, expected {expected}"
    )


@pytest.mark.grades("top_k")
def test_top_k_of_batches(generator):
    """(..., n), both float types; logits that are -inf already."""
    for dtype in (torch.float32, DOUBLE):
        logits = normal(2, 3, 9, generator=generator, dtype=dtype)
        logits[0, 0, :7] = -torch.inf
        got = token_world_model.top_k(logits, 4)
        assert_close(
            got,
            top_k(logits, 4),
            what="the 4 greatest along the last axis",
            hint="the last axis is that of the classes",
        )


@pytest.mark.grades("top_k")
@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_outside(k):
    """Fewer than one or more than there are."""
    with expect_error(ValueError, otherwise=f"k = {k} of 5 logits is accepted: it is in 1..5"):
        token_world_model.top_k(torch.tensor([LOGITS, LOGITS]), k)


@pytest.mark.grades("top_k")
def test_gradient_of_top_k(generator):
    """What stays leads back to the logits."""
    logits = normal(3, 6, generator=generator).requires_grad_()
    kept = token_world_model.top_k(logits, 2)
    (got,) = gradients(kept[kept.isfinite()].square().sum(), (logits,))
    expected = torch.where(top_k(logits.detach(), 2).isfinite(), 2 * logits.detach(), 0.0)
    assert_close(
        got,
        expected,
        rtol=1e-6,
        what="gradient of the logits that stay",
        hint="what stays is detached from the logits",
    )


# --- draw -------------------------------------------------------------------------------------------------------------

N = 20000


@pytest.fixture
def lent(monkeypatch):
    """top_k and guide need not be written."""
    lend(monkeypatch, "top_k", "guide")


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.5])
def test_draw_contract(temperature, generator):
    """(B,) int64 indices; inputs stay as they are."""
    for n in (1, 6):
        logits = normal(n, 5, generator=generator)
        with unchanged(logits):
            got = token_world_model.draw(logits, Sampling(temperature=temperature), generator=seeded())
        assert isinstance(got, torch.Tensor), f"a {type(got).__name__} is returned, expected a tensor"
        assert got.shape == (n,), (
            f"{n} rows of logits give indices of shape {tuple(got.shape)}, expected ({n},)"
        )
        assert got.dtype == torch.int64, f"indices are {got.dtype}, expected int64"


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
def test_temperature_0():
    """The greatest logit's index, always."""
    logits = torch.tensor([LOGITS, (0.0, 5.0, -3.0, 4.999, 1.0), (0.5, -1.0, 0.0, 1.0, 3.0)] * 50)
    expected = torch.tensor([2, 1, 4] * 50)
    for sampling in (GREEDY, Sampling(temperature=0.0, k=3), Sampling(guidance=3.0, temperature=0.0)):
        got = token_world_model.draw(logits, sampling, generator=seeded())
        mistakes = {
            "at temperature 0 the smallest is taken: it is the greatest": torch.tensor([1, 2, 1] * 50)
        }
        hint = "at temperature 0 the index of the greatest logit is asked for, always"
        assert_close(got, expected, what="indices at temperature 0", mistakes=mistakes, hint=hint)


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=2.5), PLAIN, Sampling(guidance=4.0), Sampling(temperature=0.3)], ids=str
)
def test_shares_of_draws(sampling):
    """softmax(logits/temperature), whatever the guidance says."""
    logits = torch.tensor(LOGITS)
    p = (logits.double() / sampling.temperature).softmax(-1)
    got = token_world_model.draw(logits.expand(N, -1), sampling, generator=seeded(1))
    most = torch.bincount(got, minlength=5).max().item()
    assert most < N, "all rows have one index: it is drawn for each row, and no argmax"
    shares = torch.bincount(got, minlength=5).double() / N
    others = {
        "the logits are multiplied by the temperature: divide": (
            logits.double() * sampling.temperature
        ).softmax(-1),
        "the temperature is ignored": logits.double().softmax(-1),
        "all indices are alike: the logits are ignored": torch.full((5,), 0.2, dtype=DOUBLE),
        "the softmax is taken twice": (logits.double() / sampling.temperature).softmax(-1).softmax(-1),
        "the probabilities are divided by the temperature, not the logits": (
            logits.double().softmax(-1) / sampling.temperature
        ).softmax(-1),
        "the root of the temperature divides the logits": (
            logits.double() / sampling.temperature**0.5
        ).softmax(-1),
        "the signs of the logits are turned": (-logits.double() / sampling.temperature).softmax(-1),
    }
    off = {said: (shares - q).abs().max().item() for said, q in others.items() if (p - q).abs().max() > 0.03}
    nearest = min(off, key=off.__getitem__)
    hint = nearest if off[nearest] < 0.015 else "indices are not drawn from softmax(logits/temperature)"
    check_shares(got, p, N, f"indices 0 to 4 at {sampling}", hint)


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
def test_small_temperature():
    """1e-3 is argmax in all but name, and 1e-4 of large logits overflows nothing."""
    logits = torch.tensor([LOGITS] * 500)
    got = token_world_model.draw(logits, Sampling(temperature=1e-3), generator=seeded())
    share = float((got == 2).double().mean())
    assert share == 1.0, (
        f"at temperature 0.001 only {share:.0%} are the greatest: logits are divided by the temperature"
    )
    got = token_world_model.draw(100 * logits, Sampling(temperature=1e-4), generator=seeded())
    assert (got == 2).all(), "at temperature 0.0001 logits of 200 overflow"


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(k=2),
        Sampling(k=3, temperature=2.0),
        Sampling(k=3, temperature=0.5),
        Sampling(k=1),
        Sampling(k=5),
    ],
    ids=str,
)
def test_draws_among_the_greatest(sampling):
    """The k greatest, in their proportions; the others never."""
    logits = torch.tensor(LOGITS)
    k, temperature = sampling.k, sampling.temperature
    p = (top_k(logits.double(), k) / temperature).softmax(-1)
    got = token_world_model.draw(logits.expand(N, -1), sampling, generator=seeded(2))
    never = torch.bincount(got, minlength=5)[p == 0].sum().item()
    assert never == 0, (
        f"{never} of {N} draws are none of the {k} greatest: k is ignored, or cuts less than it should"
    )
    shares = torch.bincount(got, minlength=5).double() / N
    twice = torch.where(p > 0, (logits.double() / temperature).softmax(-1), -torch.inf).softmax(-1)
    flat = (p > 0).double() / k
    others = {
        "probabilities are cut to k and go through a softmax again: logits are": twice,
        "the k greatest are drawn alike: in their proportions they should": flat,
        "the temperature is ignored where k is given": top_k(logits.double(), k).softmax(-1),
    }
    fits = [
        said for said, q in others.items() if (shares - q).abs().max() < 0.015 and (p - q).abs().max() > 0.03
    ]
    hint = (
        fits[0]
        if fits
        else f"indices are not drawn from the softmax of the {k} greatest logits over the temperature"
    )
    check_shares(got, p, N, f"indices 0 to 4 at {sampling}", hint)


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
def test_rows_are_drawn_apart():
    """Each row from its own logits, and independently of its neighbours."""
    rows = torch.tensor(
        [LOGITS, LOGITS, (1000.0, 0.0, 0.0, 0.0, 0.0), (-2000.0, -2000.0, -2000.0, -2000.0, -1000.0)]
    )
    got = token_world_model.draw(rows.repeat(4000, 1), generator=seeded(3)).unflatten(0, (4000, 4))
    assert (got[:, 2] == 0).all(), (
        "a logit of 1000 beside zeros leaves one index: is each row's softmax its own?"
    )
    assert (got[:, 3] == 4).all(), (
        "logits of -2000 beside one of -1000 leave one index: subtract the greatest first"
    )
    check_shares(
        got[:, 0],
        torch.tensor(LOGITS).double().softmax(-1),
        4000,
        "indices 0 to 4",
        "indices are not drawn from their own row's softmax",
    )
    pair = got[:, 0] * 5 + got[:, 1]
    p = torch.tensor(LOGITS).double().softmax(-1)
    check_shares(
        pair,
        torch.outer(p, p).flatten(),
        4000,
        "pairs of neighbours",
        "neighbours are not drawn independently",
    )


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
def test_negative_temperature():
    """It is refused, however small, with a k too."""
    for sampling in (Sampling(temperature=-1.0), Sampling(temperature=-0.1), Sampling(temperature=-1.0, k=2)):
        with expect_error(ValueError, otherwise=f"{sampling} is accepted: it would draw the least likely"):
            token_world_model.draw(torch.tensor([LOGITS]), sampling)


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("k", [0, 6])
def test_draw_with_k_outside(k):
    """It is refused: 0 is not no k."""
    with expect_error(ValueError, otherwise=f"a draw with k = {k} of 5 logits is accepted: it is in 1..5"):
        token_world_model.draw(torch.tensor([LOGITS]), Sampling(k=k))


@pytest.mark.grades("draw")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("sampling", [PLAIN, Sampling(temperature=2.0), Sampling(k=3)], ids=str)
def test_generator_of_draws(sampling):
    """Draws come from it: same seed, same indices; another seed, others; torch's own generator stays. It moves on."""
    logits = torch.tensor(LOGITS).expand(300, -1)
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        one, other = (token_world_model.draw(logits, sampling, generator=seeded(s)) for s in (1, 2))
        moved = not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(5)
        again = token_world_model.draw(logits, sampling, generator=seeded(1))
        free = [token_world_model.draw(logits, sampling) for _ in range(2)]
    same = torch.equal(one, again)
    assert same, "indices are not drawn from the generator that is passed: the same seed gives others"
    assert not moved, "torch's global generator has moved: draw from the one that is passed"
    differ = not torch.equal(one, other)
    assert differ, "another seed gives the same indices"
    differ = not torch.equal(*free)
    assert differ, "without a generator all draws are the same"
    source = seeded(4)
    one, other = (token_world_model.draw(logits, sampling, generator=source) for _ in range(2))
    differ = not torch.equal(one, other)
    assert differ, "two draws from one generator are the same: it is to move on"


# --- next_frame -------------------------------------------------------------------------------------------------------


class Asked:
    """A next frame in a world of tables, and what stands in them."""

    def __init__(self, sampling=GREEDY, n=5, n_steps=2, *, seed=0, world=None, generator=None, rows=...):
        self.world = world or Table()
        self.text, self.images, actions = (x[rows] for x in pieces(n, n_steps, seeded(seed)))
        if len(self.text) > 1 and rows is ...:
            self.text[-1] = 0  # no text is a text like others
        self.before, self.action, self.sampling = actions[:, :-1], actions[:, -1], sampling
        both = sampling.guidance != 1
        copies = [self.text, 0 * self.text] if both else [self.text]
        n_copies = len(copies)
        start = [torch.cat(copies), self.images.repeat(n_copies, 1, 1), self.before.repeat(n_copies, 1)]
        self.cache = self.world.start(*start)
        self.answer = token_world_model.next_frame(
            self.world, self.text, self.action, self.cache, sampling, generator=generator or seeded(1)
        )

    def logits(self, *, frame=None, action=None, text=None):
        """Image, reward and end logits of the step in question, given the frame's tokens."""
        frame = self.answer[0] if frame is None else frame
        action = self.action if action is None else action
        text = self.text if text is None else text
        images = torch.cat([self.images, frame[:, None]], dim=1)
        actions = torch.cat([self.before, action[:, None]], dim=1)
        image, reward, end = self.world.by_hand(text, images, actions)
        return image[:, -1], reward[:, -1], end[:, -1]

    def greedy(self, guidance=1.0, mix=guide):
        """The frame at temperature 0, token by token."""
        frame = torch.zeros(len(self.text), WORDS.n_image, dtype=torch.int64)
        for i in range(WORDS.n_image):
            with_text, without = (
                self.logits(frame=frame, text=t)[0][:, i] for t in (self.text, 0 * self.text)
            )
            frame[:, i] = mix(with_text, without, guidance).argmax(-1)
        return frame


@pytest.fixture
def all_lent(monkeypatch):
    """The other units of the learner's need not be written."""
    lend(monkeypatch, "interleave", "guide", "top_k", "draw")


frame_test = pytest.mark.usefixtures("all_lent")


@pytest.mark.grades("next_frame")
@frame_test
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_frame_contract(guidance):
    """Image (B, N) int64, logits (B, 3) and (B, 2), a cache; inputs stay as they are; no gradients."""
    asked = Asked(Sampling(guidance=guidance))
    told = [] if guidance == 1 else [asked.sampling]  # PLAIN is the default
    kept = [part for past in asked.cache.layers for part in past]
    with unchanged(asked.text, asked.action, *kept):
        answer = token_world_model.next_frame(
            asked.world, asked.text, asked.action, asked.cache, *told, generator=seeded()
        )
    assert torch.is_grad_enabled(), (
        "next_frame switches gradients off and leaves them off for what comes after"
    )
    assert len(answer) == 4, f"{len(answer)} things are returned: image, reward, end, cache"
    image, reward, end, cache = answer
    for name, part, shape in (
        ("image", image, (5, WORDS.n_image)),
        ("reward", reward, (5, 3)),
        ("end", end, (5, 2)),
    ):
        assert isinstance(part, torch.Tensor), f"{name} is a {type(part).__name__}, not a tensor"
        got = tuple(part.shape)
        assert got == shape, f"{name} has shape {got}, expected {shape}"
        assert not part.requires_grad, f"{name} keeps gradients: a dream is data"
    assert image.dtype == torch.int64, f"the image's tokens are {image.dtype}, expected int64"
    graded = any(part.requires_grad for past in cache.layers for part in past)
    assert not graded, "the new cache keeps gradients: a dream is data"
    assert isinstance(cache, Cache), f"the last thing is a {type(cache).__name__}, expected the new cache"


@pytest.mark.grades("next_frame")
@frame_test
def test_what_the_world_reads():
    """Action, text, the image's tokens, each once, behind the cache."""
    asked = Asked()
    frame, _, _, cache = asked.answer
    world = asked.world
    held = world.held(cache)
    before = interleave(asked.text, asked.images, asked.before, WORDS)
    n = before.shape[1]
    assert held.shape[1] >= n, f"the new cache holds {held.shape[1]} tokens, the old one {n}: it begins anew"
    right = torch.cat([before, asked.action[:, None] + 11, asked.text[:, None] + 7, frame], dim=1)
    missing = right.shape[1] - held.shape[1]
    if missing:
        assert missing != 1, (
            "the last token of the image is not read by the world: the new cache holds the image as well"
        )
        raise AssertionError(
            f"the new cache holds {held.shape[1] - n} tokens more than the old one: action, text and image are {WORDS.n_image + 2}"
        )
    mistakes = {
        "another text is read: it is the same in each step": torch.cat(
            [before, right[:, n : n + 1], 0 * right[:, :1] + 7, frame], dim=1
        ),
        "the tokens stand in reverse order: the first that is drawn comes first": torch.cat(
            [right[:, : n + 2], frame.flip(1)], dim=1
        ),
    }
    assert_close(held, right, what="tokens that the new cache holds", mistakes=mistakes)
    assert cache.position == n + 6, f"the new cache says {cache.position} tokens, expected {n + 6}"


@pytest.mark.grades("next_frame")
@frame_test
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_frame(seed):
    """At temperature 0 each token is the likeliest after all before it."""
    asked = Asked(seed=seed)
    frame = asked.answer[0]
    expected = asked.greedy()
    late = asked.logits(frame=expected)[0]
    mistakes = {
        "the smallest logit is taken at temperature 0": lambda: asked.greedy(mix=lambda c, u, g: -c),
        "the text is left out: with guidance 1 the logits are those with it": lambda: asked.greedy(0.0),
        "the tokens stand in reverse order": expected.flip(1),
        "each token is taken from the logits of the next place": torch.cat(
            [late[:, 1:], late[:, :1]], dim=1
        ).argmax(-1),
    }
    hint = "the tokens are not the likeliest after action, text and the tokens before them"
    assert_close(frame, expected, what="image at temperature 0", mistakes=mistakes, hint=hint)


@pytest.mark.grades("next_frame")
@frame_test
def test_reward_and_end():
    """They are said at the action, before the text and the image."""
    asked = Asked()
    _, reward, end, cache = asked.answer
    _, right_reward, right_end = asked.logits()
    rows = asked.world.logits(asked.world.held(cache))[..., WORDS.n_codes :]
    at = -WORDS.n_image - 2
    for name, got, expected, part in (
        ("reward", reward, right_reward, slice(0, 3)),
        ("end", end, right_end, slice(3, 5)),
    ):
        mistakes = {
            f"the {name} is read at the text: it is said at the action": rows[:, at + 1, part],
            f"the {name} is read at the image's last token: it is said at the action": rows[:, -1, part],
            f"the {name} is read at the image's first token: it is said at the action": rows[:, at + 2, part],
            f"the {name} is read before the last image token: it is said at the action": rows[:, -2, part],
        }
        assert_close(
            got,
            expected,
            rtol=1e-5,
            what=f"{name} logits",
            mistakes=mistakes,
            hint=f"not what the world says of the {name}",
        )


@pytest.mark.grades("next_frame")
@frame_test
@pytest.mark.parametrize("guidance", [2.0, 0.0, 0.5, 4.0, 1.0])
def test_guided_frame(guidance):
    """Mixed logits of both halves; both halves read the same tokens."""
    asked = Asked(Sampling(guidance=guidance, temperature=0.0), n=8)
    frame, reward, end, cache = asked.answer
    expected = asked.greedy(guidance)
    mistakes = {
        "guidance is ignored: the logits with text are used alone": asked.greedy(1.0),
        "the text is left out": asked.greedy(0.0),
        "guidance mixes the two the wrong way round: those without text stand second": asked.greedy(
            1 - guidance
        ),
        "guidance is one too great": asked.greedy(1 + guidance),
    }
    mistakes = {said: value for said, value in mistakes.items() if not torch.equal(value, expected)}
    hint = "the tokens are not the likeliest of the mixed logits after the tokens before them, the same ones in both halves"
    held = asked.world.held(cache)
    n = len(asked.text)
    copies = 1 if guidance == 1 else 2
    assert len(held) == copies * n, (
        f"with guidance {guidance} the new cache holds {len(held)} sequences for {n} dreams, expected {copies * n}"
    )
    if copies == 2:
        texts = held[:, :: WORDS.step] - WORDS.n_codes
        assert (texts[n:] == 0).all(), (
            "the second half of the cache has texts in it: those without text stand second"
        )
        assert torch.equal(texts[:n], asked.text[:, None].expand(n, 3)), (
            "the first half of the cache has lost its texts"
        )
        same = torch.equal(held[:n, -WORDS.n_image :], held[n:, -WORDS.n_image :])
        assert same, (
            "the half without text reads other tokens than the half with it: what was drawn is read by both"
        )
    assert_close(frame, expected, what=f"image with guidance {guidance}", mistakes=mistakes, hint=hint)
    _, with_text, end_with_text = asked.logits()
    _, without, end_without = asked.logits(text=0 * asked.text)
    mistakes = {
        "guidance is applied to the reward: it is read with the text": guide(with_text, without, guidance),
        "the reward is read without the text": without,
    }
    assert_close(
        reward, with_text, rtol=1e-5, what="reward logits", mistakes=mistakes if copies == 2 else None
    )
    mistakes = {
        "guidance is applied to the end: it is read with the text": guide(
            end_with_text, end_without, guidance
        ),
        "the end is read without the text": end_without,
    }
    assert_close(end, end_with_text, rtol=1e-5, what="end logits", mistakes=mistakes if copies == 2 else None)


@pytest.mark.grades("next_frame")
@frame_test
def test_each_action_leads_elsewhere():
    """From one cache, under every action: image, reward and end hang on it; and the cache can be used again."""
    first = Asked()
    answers = []
    for a in range(WORDS.n_actions):
        action = torch.full_like(first.action, a)
        frame, reward, end, cache = token_world_model.next_frame(
            first.world, first.text, action, first.cache, GREEDY
        )
        _, right_reward, right_end = first.logits(frame=frame, action=action)
        assert_close(
            reward,
            right_reward,
            rtol=1e-5,
            what=f"reward logits under action {a}",
            hint="the cache has changed, or the action is another one",
        )
        assert_close(end, right_end, rtol=1e-5, what=f"end logits under action {a}")
        assert (first.world.held(cache)[:, -6] == a + 11).all(), f"the world reads another action than {a}"
        answers.append(frame)
    again = token_world_model.next_frame(first.world, first.text, first.action, first.cache, GREEDY)[0]
    assert torch.equal(again, first.answer[0]), (
        "a cache that was used once says something else: nothing may change it"
    )
    assert len({tuple(frame.flatten().tolist()) for frame in answers}) > 1, "all actions lead to one image"


@pytest.mark.grades("next_frame")
@frame_test
def test_frames_go_on():
    """Three steps in a row, each from the new cache: as of the whole sequence."""
    asked = Asked(n=4)
    world, images, actions, cache = asked.world, asked.images, asked.before, asked.cache
    for t in range(3):
        action = (asked.action + t) % WORDS.n_actions
        frame, reward, _, cache = token_world_model.next_frame(world, asked.text, action, cache, GREEDY)
        images, actions = (
            torch.cat([images, frame[:, None]], dim=1),
            torch.cat([actions, action[:, None]], dim=1),
        )
        image, rewards, _ = world.by_hand(asked.text, images, actions)
        assert_close(
            frame,
            image[:, -1].argmax(-1),
            what=f"image of step {t + 1}",
            hint="in a later step the image is not what the world says",
        )
        assert_close(reward, rewards[:, -1], rtol=1e-5, what=f"reward logits of step {t + 1}")


@pytest.mark.grades("next_frame")
@frame_test
@pytest.mark.parametrize("sampling", [PLAIN, Sampling(k=2), Sampling(temperature=0.5, k=3)], ids=str)
def test_tokens_are_drawn(sampling):
    """Each image token from the world's logits, as `sampling` says; neighbours independently where the world says so."""
    p = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.07, 0.13, 0.3], dtype=DOUBLE)
    world, n = Coins(p.float().tolist()), 8000
    _, cache = world(torch.full((n, 1), WORDS.n_codes))
    cache = cache._replace(position=WORDS.step - 1)
    text, actions = torch.ones(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    told = [] if sampling == PLAIN else [sampling]  # PLAIN is the default
    frame, *_ = token_world_model.next_frame(world, text, actions, cache, *told, generator=seeded(5))
    logits = p.log() if sampling.k is None else top_k(p.log(), sampling.k)
    q = (logits / sampling.temperature).softmax(-1)
    if sampling != PLAIN:
        shares = torch.bincount(frame.flatten(), minlength=7).double() / frame.numel()
        assert (shares - p).abs().max() > 0.02, (
            "sampling is ignored: temperature and k are not handed on to the draws"
        )
    assert len(frame.flatten().unique()) > 1, "all tokens are the same: each is drawn, no argmax"
    for i in range(WORDS.n_image):
        check_shares(
            frame[:, i],
            q,
            n,
            f"codes of image token {i + 1} at {sampling}",
            "the tokens are not drawn from the world's logits",
        )
    pair = frame[:, 0] * 7 + frame[:, 1]
    check_shares(
        pair,
        torch.outer(q, q).flatten(),
        n,
        "pairs of the first two tokens",
        "the tokens of one image hang on each other: each has a draw of its own",
    )


@pytest.mark.grades("next_frame")
@frame_test
@pytest.mark.parametrize("sampling", [Sampling(3.0), Sampling(2.0, 0.5), Sampling(4.0, 2.0, 3)], ids=str)
def test_guided_tokens_are_drawn(sampling):
    """From the mixed logits, as `sampling` says."""
    asked, n = Asked(sampling, n=1, seed=1), 600
    again = Asked(sampling, n=1, seed=1, rows=[0] * n)
    frames = torch.zeros(1, WORDS.n_image, dtype=torch.int64)
    with_text, without = (
        asked.logits(frame=frames, text=t)[0][0, 0].double() for t in (asked.text, 0 * asked.text)
    )
    mixed = guide(with_text, without, sampling.guidance)
    p = (top_k(mixed, sampling.k or len(mixed)) / sampling.temperature).softmax(-1)
    hint = "the tokens are not drawn from the mixed logits, which k cuts and the temperature divides"
    check_shares(again.answer[0][:, 0], p, n, "codes of the first token", hint)


@pytest.mark.grades("next_frame")
@frame_test
@pytest.mark.parametrize("sampling", [PLAIN, Sampling(guidance=2.0), Sampling(k=3)], ids=str)
def test_generator_of_a_frame(sampling):
    """All draws come from it: same seed, same image; torch's own generator stays."""
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        one, other = (Asked(sampling, n=60, generator=seeded(s)).answer[0] for s in (1, 2))
        moved = not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(4)
        again = Asked(sampling, n=60, generator=seeded(1)).answer[0]
    same = torch.equal(one, again)
    assert same, "the tokens are not drawn from the generator that is passed: the same seed gives others"
    assert not moved, "torch's global generator has moved: draw from the one that is passed"
    differ = not torch.equal(one, other)
    assert differ, "another seed gives the same image"


@pytest.mark.grades("next_frame")
@frame_test
def test_frame_of_one_dream():
    """A batch of one keeps its axes; a beginning of one frame has no action before."""
    asked = Asked(Sampling(guidance=2.0, temperature=0.0), n=1, n_steps=1)
    frame, reward, end, cache = asked.answer
    got = tuple(frame.shape), tuple(reward.shape), tuple(end.shape), cache.position
    assert got == ((1, 4), (1, 3), (1, 2), 11), (
        f"image, reward, end and position are {got}, expected ((1, 4), (1, 3), (1, 2), 11)"
    )
    assert_close(frame, asked.greedy(2.0), what="image of one dream")

"""Dreams. Oracle: a world of tables, asked about the whole dream at once with the actions that the dream took.

Its rewards and ends are certain. What is drawn at random is judged by its law, since a right answer may draw in any order.
"""

import math

import pytest
import torch
from oracles import DOUBLE, WORDS, check_shares, guide, lend, pieces, seeded
from toys import LOUD, Coins, Constant, Table, Teller

import token_world_model
from shared.testing.checks import assert_close, expect_error, unchanged
from world import PLAIN, Dream, Sampling

pytestmark = pytest.mark.grades("imagine")
KINDS = {
    "images": torch.int64,
    "actions": torch.int64,
    "ends": torch.bool,
    "alive": torch.bool,
}  # the others are float32
LENT = "interleave", "guide", "top_k", "draw", "next_frame"
FOLLOWS = "what follows from the dream's own actions may be the same everywhere"


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """The other units of the learner's need not be written; gradients are on again for whoever comes next."""
    lend(monkeypatch, *LENT)
    yield
    torch.set_grad_enabled(True)


class Played:
    """A dream in a world of tables whose rewards and ends are certain, and what the tables say of it."""

    def __init__(self, n=6, horizon=7, n_frames=3, sampling=PLAIN, *, seed=0, policy=None):
        self.world, self.policy, self.sampling = Table(loud=True), policy or Teller(), sampling
        self.text, self.first, self.between = pieces(n, n_frames, seeded(10 + seed), last_action=False)
        if n > 1:
            self.text[-1] = 0  # no text is a text like others
        self.n_frames = n_frames
        with unchanged(self.text, self.first, self.between):
            self.dream = token_world_model.imagine(
                self.world,
                self.policy,
                self.text,
                self.first,
                self.between,
                horizon=horizon,
                sampling=sampling,
                generator=seeded(seed),
            )
        self.left_on = torch.is_grad_enabled()
        assert isinstance(self.dream, Dream), f"a {type(self.dream).__name__} is returned, expected a Dream"
        shape = tuple(self.dream.actions.shape)
        assert shape == (horizon, n), (
            f"actions of {n} dreams over a horizon of {horizon} have shape {shape}: time first, then the dreams"
        )
        shape, wanted = tuple(self.dream.images.shape), (n, n_frames + horizon, WORDS.n_image)
        assert shape == wanted, (
            f"images have shape {shape}, expected {wanted}: the beginning's first, then one for each step"
        )

    def told(self, text=None, actions=None):
        """Image logits (B, T, N, n_codes), rewards (T, B) and ends (T, B) of the dream's steps, by the tables."""
        text = self.text if text is None else text
        actions = self.dream.actions if actions is None else actions
        image, reward, end = self.world.by_hand(
            text, self.dream.images, torch.cat([self.between, actions.T], dim=1)
        )
        n = self.n_frames - 1
        return image[:, n + 1 :], reward[:, n:].argmax(-1).T - 1.0, end[:, n:].argmax(-1).T == 1

    @torch.no_grad()
    def asked(self, shift=0, *, last_only=False):
        """Logits (T, B, A) and values (T, B) of the images up to each step."""
        rows = []
        for t in range(len(self.dream.actions)):
            shown = self.dream.images[:, : self.n_frames + t + shift]
            rows.append(self.policy(shown[:, -1:] if last_only else shown))
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))


@pytest.fixture(scope="module")
def played():
    """Seven steps of six dreams, of which some end; dreamt once for all tests."""
    patch = pytest.MonkeyPatch()
    lend(patch, *LENT)
    try:
        return Played()
    finally:
        patch.undo()


# --- the contract -----------------------------------------------------------------------------------------------------


def test_dream_contract(played):
    """(T, B) each but the images, (B, L + T, N)."""
    for name, column in played.dream._asdict().items():
        assert isinstance(column, torch.Tensor), f"{name} is a {type(column).__name__}, not a tensor"
        shape = (6, 10, 4) if name == "images" else (7, 6)
        assert column.shape == shape, f"{name} has shape {tuple(column.shape)}, expected {shape}"
        kind = KINDS.get(name, torch.float32)
        assert column.dtype == kind, f"{name} is {column.dtype}, expected {kind}"


def test_dream_keeps_no_gradients(played):
    """No column leads back to the policy or the world."""
    assert played.left_on, "imagine switches gradients off and leaves them off for what comes after"
    for name, column in played.dream._asdict().items():
        assert not column.requires_grad, f"{name} keeps gradients: a dream is data"


@pytest.mark.parametrize("horizon", [0, -2])
def test_horizon_below_one(horizon):
    """It is refused."""
    with expect_error(ValueError, otherwise=f"a horizon of {horizon} is accepted: it is at least 1"):
        Played(horizon=horizon)


def test_beginning(played):
    """The first L images are the real ones."""
    got = played.dream.images[:, :3]
    mistakes = {"the beginning's frames are turned round: the oldest comes first": played.first.flip(1)}
    assert_close(got, played.first, what="images of the beginning", mistakes=mistakes)


# --- what the world reads ---------------------------------------------------------------------------------------------


def test_beginning_is_read(played):
    """The world reads the beginning, its text and the actions between its images, before the first action."""
    world = played.world
    read = torch.cat([x[: len(played.text)] for x in world.read], dim=1)
    assert world.positions[0] == 0, (
        f"the world's first tokens stand at {world.positions[0]}: a dream begins without a cache"
    )
    assert (read[:, 0] == played.text + WORDS.n_codes).all(), (
        "the first token that the world reads is not the dream's own text"
    )
    n = 3 * WORDS.step - 1
    images = torch.stack(
        [read[:, t * WORDS.step + 1 : t * WORDS.step + 1 + WORDS.n_image] for t in range(3)], dim=1
    )
    assert_close(images, played.first, what="images of the beginning that the world reads")
    between = read[:, WORDS.step - 1 : n : WORDS.step] - WORDS.n_codes - WORDS.n_texts
    assert_close(between, played.between, what="actions of the beginning that the world reads")


def test_both_halves_are_read():
    """With guidance those with text stand first, those without second, from the beginning on."""
    played = Played(sampling=Sampling(guidance=2.0), horizon=1)
    begun = [
        x for x, position in zip(played.world.read, played.world.positions, strict=True) if position == 0
    ]
    if len(begun) == 1:  # whoever reads them one after the other is judged by the whole
        texts = begun[0][:, 0] - WORDS.n_codes
        expected = torch.cat([played.text, 0 * played.text])
        mistakes = {
            "the two halves are exchanged: those without text stand second": expected.roll(len(played.text))
        }
        assert_close(texts, expected, what="texts that the world reads in the beginning", mistakes=mistakes)


def test_actions_are_read(played):
    """Each action that the dream tells is the one that the world reads behind the images."""
    whole = torch.cat(played.world.read, dim=1)
    assert whole.shape[1] <= 59, (
        f"the world reads {whole.shape[1]} tokens of a dream of 59: what the cache holds is read again"
    )
    got = whole[:, WORDS.step - 1 :: WORDS.step][:, 2:9] - WORDS.n_codes - WORDS.n_texts
    assert got.shape == (6, 7), f"the world reads {got.shape[1]} actions in seven steps"
    assert_close(got.T, played.dream.actions, what="actions that the world reads", vacuous_ok=FOLLOWS)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0),
        Sampling(2.0, 0.0),
        Sampling(0.0, 0.0),
        Sampling(4.0, 0.0),
        Sampling(2.0, k=1),
    ],
    ids=str,
)
def test_images(sampling):
    """At temperature 0, or with k = 1, each image is what the tables say is likeliest, with guidance of both texts."""
    played = Played(sampling=sampling, horizon=5, n=10)
    with_text, without = (played.told(text)[0] for text in (played.text, 0 * played.text))
    got, guidance = played.dream.images[:, 3:], sampling.guidance
    expected = guide(with_text, without, guidance).argmax(-1)
    if torch.equal(got, expected):
        return
    others = {
        "the guidance is ignored": with_text,
        "the text is left out": without,
        "guidance mixes the two the wrong way round: those without text stand second": guide(
            without, with_text, guidance
        ),
    }
    fits = [said for said, logits in others.items() if torch.equal(got, logits.argmax(-1))]
    hint = (
        fits[0]
        if fits
        else "the images are not what the world says after all that was seen and done: is the cache handed on from step to step, with text and sampling?"
    )
    raise AssertionError(
        f"{hint}\n{int((got != expected).sum())} of {got.numel()} tokens are not the likeliest ones"
    )


# --- what the columns hold --------------------------------------------------------------------------------------------


def test_rewards_and_ends(played):
    """-1, 0, 1 for the classes 0, 1, 2; class 1 ends: as the world says of each step's action."""
    _, rewards, ends = played.told()
    mistakes = {
        "the reward is the number of its class: -1, 0, 1 are the classes 0, 1, 2": rewards + 1,
        "the reward's sign is turned: class 0 is -1, class 2 is 1": -rewards,
        "rewards are stored one step late": rewards.roll(1, 0),
        "the reward of a step that ends the game is lost": rewards * ~ends,
        "rewards after an end are made 0: such steps mean nothing, alive says so": rewards
        * played.dream.alive,
    }
    assert_close(played.dream.rewards, rewards, rtol=0, what="rewards", mistakes=mistakes)
    over = ends.clone()
    over[-1] = True
    mistakes = {
        "ends are turned round: class 1 ends": ~ends,
        "the horizon's end is treated as the game's": over,
        "ends are stored one step late": torch.cat([torch.zeros_like(ends[:1]), ends[:-1]]),
    }
    assert_close(played.dream.ends, ends, what="ends", mistakes=mistakes)


def test_alive(played):
    """True until a step has ended the game, that step included."""
    ends = played.dream.ends
    rows, alive = [], [True] * 6
    for t in range(7):
        rows.append(list(alive))
        alive = [a and not bool(e) for a, e in zip(alive, ends[t], strict=True)]
    expected = torch.tensor(rows)
    after = torch.cat([expected[1:], torch.tensor([alive])])
    mistakes = {
        "the step that ends the game is not alive: the game had not ended before it": after,
        "all steps are alive: those after an end are not": torch.ones_like(expected),
        "alive only says that the step before did not end: an end holds for good": torch.cat(
            [torch.ones_like(ends[:1]), ~ends[:-1]]
        ),
        "alive is turned round: true until the game has ended": ~expected,
        "alive says that this step does not end": ~ends,
        "alive is one step late": torch.cat([torch.ones_like(expected[:1]), expected[:-1]]),
    }
    assert not expected.all(), "no dream ends in seven steps, though the world ends some"
    assert_close(played.dream.alive, expected, what="alive", mistakes=mistakes)


def test_values(played):
    """V of the images before the step; next_values of those after it."""
    before, after = played.asked()[1], played.asked(1)[1]
    frame = "the policy sees the last image alone: it sees all so far"
    mistakes = {
        "values are those of the images after the step": after,
        "values are stored one step late": before.roll(1, 0),
        frame: lambda: played.asked(last_only=True)[1],
        "the policy sees the images before the last one: the newest is missing": lambda: played.asked(-1)[1],
    }
    how = {
        "rtol": 1e-4,
        "atol": 1e-4,
        "hint": "the policy is not asked about all images so far, from the first on",
    }
    assert_close(played.dream.values, before, what="values", mistakes=mistakes, **how)
    zero = torch.zeros_like(after[:1])
    mistakes = {
        "next_values are those of the images before the step": before,
        "next_values are two steps ahead": torch.cat([after[1:], after[-1:]]),
        "the last next_values are 0: the horizon's end is not the game's": torch.cat([after[:-1], zero]),
        "next_values are 0 where the game ended: V of what the step led to is asked for": after
        * ~played.dream.ends,
        frame: lambda: played.asked(1, last_only=True)[1],
        "the last next_values are those before the step": torch.cat([after[:-1], before[-1:]]),
    }
    assert_close(played.dream.next_values, after, what="next_values", mistakes=mistakes, **how)


@pytest.mark.parametrize("sampling", [PLAIN, Sampling(temperature=0.5)], ids=str)
def test_log_probs(sampling):
    """log π of the action that was drawn, of the policy's logits before the step; sampling is for the images alone."""
    played = Played(sampling=sampling)
    logits = played.asked()[0].double()
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    taken = played.dream.actions[..., None]
    expected = log_p.gather(-1, taken)[..., 0]
    after = played.asked(1)[0].double().log_softmax(-1)
    mistakes = {
        "these are probabilities, not their logarithms": expected.exp(),
        "these are logits: the softmax is missing": logits.gather(-1, taken)[..., 0],
        "these are log-probabilities of the likeliest action, not of the one that was drawn": log_p.amax(-1),
        "these are log-probabilities of action 0, not of the one that was drawn": log_p[..., 0],
        "these are those of a uniform policy: log π of the policy's own logits is asked for": torch.full_like(
            expected, -math.log(WORDS.n_actions)
        ),
        "these are of the policy after the step: the action was drawn before": after.gather(-1, taken)[
            ..., 0
        ],
        "these are log-probabilities of the next step's action": log_p.gather(-1, taken.roll(-1, 0))[..., 0],
        "the sign is turned: log-probabilities are negative": -expected,
        "sampling's temperature divides the policy's logits: it is for the images alone": (
            logits / sampling.temperature
        )
        .log_softmax(-1)
        .gather(-1, taken)[..., 0],
    }
    assert_close(
        played.dream.log_probs,
        expected,
        dtype=torch.float32,
        rtol=1e-3,
        atol=1e-3,
        what="log_probs",
        mistakes=mistakes,
    )


def test_what_the_policy_sees(played):
    """All images so far, (B, L + t, N): the beginning, then one more in each step."""
    seen = {x.shape[1]: x for x in played.policy.seen}
    expected = list(range(3, 11))
    assert sorted(seen) == expected, (
        f"the policy sees {sorted(seen)} images, expected {expected}: all so far, before and after each step"
    )
    for n, images in seen.items():
        same = torch.equal(images, played.dream.images[:, :n])
        assert same, f"the {n} images that the policy sees are not the first {n} of the dream"


def test_actions_are_the_policys():
    """A policy that is sure of itself: what is done is what it says of the images so far."""

    def sure(images):
        choice = (images[:, -1].sum(-1) + images.shape[1]) % WORDS.n_actions
        return LOUD * torch.nn.functional.one_hot(choice, WORDS.n_actions).float(), images.float().mean(
            (1, 2)
        )

    dream = Played(policy=sure).dream
    expected = torch.stack([sure(dream.images[:, : 3 + t])[0].argmax(-1) for t in range(7)])
    hint = "the actions are not those of the policy that sees all images so far"
    assert_close(
        dream.actions, expected, what="actions of a policy that is sure", hint=hint, vacuous_ok=FOLLOWS
    )
    least = float(dream.log_probs.min())
    assert abs(least) < 1e-4, (
        f"a log-probability of a policy that is sure is {least}, not 0: exp overflows, take log_softmax"
    )


# --- what is drawn ----------------------------------------------------------------------------------------------------

N = 6000
IMAGE = [0.05, 0.1, 0.15, 0.2, 0.07, 0.13, 0.3]
ACTIONS = [0.1, 0.3, 0.25, 0.15, 0.2]


def coins(sampling=PLAIN, horizon=2, n=N):
    """Dreams in which everything is left to chance."""
    text, first, between = pieces(n, 1, seeded(1), last_action=False)
    return token_world_model.imagine(
        Coins(IMAGE),
        Constant(ACTIONS),
        text,
        first,
        between,
        horizon=horizon,
        sampling=sampling,
        generator=seeded(3),
    )


@pytest.fixture(scope="module")
def many():
    """6000 dreams of two steps, dreamt once for all tests of this part."""
    patch = pytest.MonkeyPatch()
    lend(patch, *LENT)
    try:
        return coins()
    finally:
        patch.undo()


def test_everything_is_drawn(many):
    """Actions, rewards, ends and image tokens as often as their probabilities say, in each step."""
    for t in (0, 1):
        columns = {
            "actions": (many.actions[t], ACTIONS),
            "rewards -1, 0, 1": (many.rewards[t].long() + 1, [0.2, 0.5, 0.3]),
            "ends no, yes": (many.ends[t].long(), [0.7, 0.3]),
            "codes of a token": (many.images[:, 1 + t, 2], IMAGE),
        }
        for what, (got, p) in columns.items():
            name = what.split()[0]
            hint = f"{name} are not drawn from their logits"
            if len(got.unique()) == 1:
                hint = f"{name} are not drawn: argmax, or one draw for all dreams?"
            check_shares(got, torch.tensor(p, dtype=DOUBLE), N, f"{what} in step {t + 1}", hint)


def test_draws_are_independent(many):
    """Action, reward, end and tokens of one step, and of the next, know nothing of each other."""
    rows = {}
    for t in (0, 1):
        for name in ("actions", "rewards", "ends"):
            rows[f"{name[:-1]} of step {t + 1}"] = getattr(many, name)[t].to(DOUBLE)
        rows[f"a token of step {t + 1}"] = many.images[:, 1 + t, 0].to(DOUBLE)
    names, table = list(rows), torch.corrcoef(torch.stack(list(rows.values())))
    for i, name in enumerate(names):
        for j in range(i):
            assert abs(table[i, j]) < 5 / math.sqrt(N), (
                f"{name} hangs on {names[j]} (correlation {table[i, j]:.2f}): each is drawn anew"
            )


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.5), Sampling(2.0), Sampling(1.0, 0.0, 2)], ids=str
)
def test_sampling_is_for_images_alone(sampling):
    """Guidance, temperature and k shape the image tokens; actions, rewards and ends come from their plain logits."""
    dream = coins(sampling, horizon=1)
    greedy = sampling.temperature == 0
    p = (torch.tensor(IMAGE, dtype=DOUBLE).log() / (sampling.temperature or 1)).softmax(-1)
    hint = "the image tokens are not drawn as sampling says: is it handed on?"
    if greedy:
        assert (dream.images[:, 1] == 6).all(), f"{hint} At temperature 0 they are the likeliest ones"
    else:
        check_shares(dream.images[:, 1, 0], p, N, f"codes at {sampling}", hint)
    for name, got, share in (
        ("actions", dream.actions[0], ACTIONS),
        ("rewards", dream.rewards[0].long() + 1, [0.2, 0.5, 0.3]),
        ("ends", dream.ends[0].long(), [0.7, 0.3]),
    ):
        hint = f"{name} are drawn as sampling says: it is for the images alone"
        check_shares(got, torch.tensor(share, dtype=DOUBLE), N, name, hint)


def dreamt(generator, n=30, **options):
    """A dream in which everything is left to chance."""
    text, first, between = pieces(n, 2, seeded(1), last_action=False)
    return token_world_model.imagine(
        Coins(IMAGE), Constant(ACTIONS), text, first, between, horizon=4, generator=generator, **options
    )


@pytest.mark.parametrize("options", [{}, {"sampling": Sampling(guidance=2.0, k=5)}], ids=str)
def test_generator_of_a_dream(options):
    """All draws come from it: same seed, same dream; another seed, another one; torch's own generator stays."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        one = dreamt(seeded(4), **options)
        moved = not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        again, other = dreamt(seeded(4), **options), dreamt(seeded(5), **options)
        free = [dreamt(None, **options).actions for _ in range(2)]
    for name in ("actions", "rewards", "ends", "images"):
        columns = [getattr(dream, name) for dream in (one, again, other)]
        same = torch.equal(columns[0], columns[1])
        assert same, f"{name} are not drawn from the generator that is passed: the same seed gives others"
        differ = not torch.equal(columns[0], columns[2])
        assert differ, f"another seed gives the same {name}"
    assert not moved, "torch's global generator has moved: draw from the one that is passed"
    differ = not torch.equal(*free)
    assert differ, "without a generator each dream is the same"


def test_generator_of_dreams_moves_on():
    """Two dreams from one generator differ, and so do the steps of one."""
    generator = seeded(6)
    one, other = dreamt(generator), dreamt(generator)
    differ = not torch.equal(one.actions, other.actions)
    assert differ, "two dreams from one generator are the same: it is to move on"
    steps = {tuple(row.tolist()) for row in one.actions}
    assert len(steps) == 4, "the steps of one dream draw the same actions: the generator is to move on"


# --- from call to call, edges -----------------------------------------------------------------------------------------


def test_dreams_know_nothing_of_each_other():
    """A second call begins without a cache: the same seed gives the same dream again, in one world."""
    world, policy = Table(loud=True), Teller()
    text, first, between = pieces(4, 2, seeded(1), last_action=False)
    dreams = [
        token_world_model.imagine(world, policy, text, first, between, horizon=3, generator=seeded(2))
        for _ in range(2)
    ]
    for name in Dream._fields:
        same = torch.equal(getattr(dreams[0], name), getattr(dreams[1], name))
        assert same, (
            f"a second dream from the same beginning has other {name}: the cache is kept from the call before"
        )


def test_two_beginnings():
    """A second call in one world begins where its own images end."""
    world, greedy = Table(loud=True), Sampling(temperature=0.0)
    for seed in (1, 2):
        text, first, between = pieces(4, 2, seeded(seed), last_action=False)
        dream = token_world_model.imagine(
            world, Constant(ACTIONS), text, first, between, horizon=1, sampling=greedy, generator=seeded(2)
        )
        image, _, _ = world.by_hand(text, dream.images, torch.cat([between, dream.actions.T], dim=1))
        hint = "a dream does not go on from its own beginning: the cache of the call before is kept"
        assert_close(
            dream.images[:, 2], image[:, 2].argmax(-1), what=f"image of dream {seed} of one world", hint=hint
        )


@pytest.mark.parametrize("n_frames", [1, 8])
def test_other_beginnings(n_frames):
    """One real frame and no action, or eight: rewards follow from the whole."""
    played = Played(n=3, horizon=4, n_frames=n_frames, seed=3)
    _, rewards, ends = played.told()
    assert_close(played.dream.rewards, rewards, what=f"rewards after {n_frames} frames", vacuous_ok=FOLLOWS)
    assert_close(played.dream.ends, ends, what=f"ends after {n_frames} frames", vacuous_ok=FOLLOWS)


def test_one_dream_of_one_step():
    """The smallest dream keeps its axes."""
    played = Played(n=1, horizon=1, n_frames=1, sampling=Sampling(guidance=2.0))
    assert played.dream.alive.all(), "the first step is alive"
    before, after = played.asked()[1], played.asked(1)[1]
    how = {"rtol": 1e-4, "atol": 1e-4, "vacuous_ok": "a single number"}
    assert_close(played.dream.values, before, what="values of a dream of one step", **how)
    hint = "the policy is asked once more after the last step"
    assert_close(played.dream.next_values, after, what="next_values of a dream of one step", hint=hint, **how)


def test_plain_by_default():
    """Without `sampling` neither guidance nor a cut."""
    text, first, between = pieces(20, 2, seeded(1), last_action=False)
    one, other = (
        token_world_model.imagine(
            Table(), Constant(ACTIONS), text, first, between, horizon=2, generator=seeded(2), **told
        ).images
        for told in ({}, {"sampling": PLAIN})
    )
    same = torch.equal(one, other)
    assert same, "without `sampling` the images are others than with PLAIN, the default"

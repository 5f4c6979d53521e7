"""Dreams. Oracle: a world that counts, dreamt again by hand with the actions that the dream took.

Its frames say who they are, when, what was done and what was seen before; its rewards and ends are certain. What is drawn at
random is judged by its law, since a right answer may draw in any order.
"""

import math

import pytest
import torch
from oracles import DOUBLE, bytes_of, lend, level, seeded
from toys import (
    LOUD,
    N_PAST,
    Chancy,
    Constant,
    Counting,
    Starts,
    Teller,
    Wrapped,
    grey_starts,
    outcome_of,
    replay,
)

import diffusion_world_model
from dream import Dream, World
from shared.testing.checks import assert_close, unchanged

pytestmark = pytest.mark.grades("imagine")
SIGMAS = torch.tensor([5.0, 0.3, 0.0])
KINDS = {"actions": torch.int64, "ends": torch.bool}  # the others are float32


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """The other units of the learner's need not be written; gradients are on again for whoever comes next."""
    lend(monkeypatch, "preconditioning", "to_bytes", "denoise", "next_frame")
    yield
    torch.set_grad_enabled(True)


FOLLOWS = "what follows from the dream's own actions may be the same everywhere"


class Played:
    """A dream in the counting world, and the same one by hand."""

    def __init__(self, n_dreams=5, horizon=9, seed=0):
        self.counting, self.policy, self.starts = Counting(), Teller(scale=0.2), Starts()
        self.dream = diffusion_world_model.imagine(
            self.counting.world, self.policy, self.starts, n_dreams=n_dreams, horizon=horizon, sigmas=SIGMAS,
            generator=seeded(seed),
        )  # fmt: skip
        assert isinstance(self.dream, Dream), f"a {type(self.dream).__name__} is returned, expected a Dream"
        shape = tuple(self.dream.actions.shape)
        assert shape == (horizon, n_dreams), (
            f"actions of {n_dreams} dreams over a horizon of {horizon} have shape {shape}: time first, then the dreams"
        )

    def by_hand(self, wrong=None):
        return replay(self.dream, self.starts, wrong)

    @torch.no_grad()
    def value(self, histories):
        return self.policy(histories.flatten(0, 1))[1].reshape(histories.shape[:2])

    def answers(self):
        """What world.outcome answered in each step, and what it had been asked: rewards, ends; frames, actions, next frames."""
        asked = self.counting.outcomes
        n_steps, n_dreams = self.dream.actions.shape
        assert len(asked) == n_steps, f"world.outcome is asked {len(asked)} times in {n_steps} steps"
        assert len(asked[0][1]) == n_dreams, (
            f"world.outcome is asked about {len(asked[0][1])} of {n_dreams} dreams"
        )
        said = [outcome_of(*one) for one in asked]
        rewards, ends = (torch.stack(column) for column in zip(*said, strict=True))
        return rewards.float(), ends, *(torch.stack(column) for column in zip(*asked, strict=True))


@pytest.fixture
def played():
    """Nine steps of five dreams, of which several end, and one in its last step."""
    return Played()


# --- the contract -----------------------------------------------------------------------------------------------------


def test_shapes_and_dtypes(played):
    """(T, B, ...), time first."""
    for name, column in played.dream._asdict().items():
        shape = (9, 5, N_PAST, 2, 3) if name == "histories" else (9, 5)
        assert isinstance(column, torch.Tensor), f"{name} is a {type(column).__name__}, not a tensor"
        got = tuple(column.shape)
        assert got == shape, f"{name} has shape {got}, expected {shape}: time first, then the dreams"
        kind = KINDS.get(name, torch.float32)
        assert column.dtype == kind, f"{name} is {column.dtype}, expected {kind}"


def test_no_gradients():
    """No column leads back to the policy or the world."""
    counting = Counting()
    world = World(Wrapped(counting.denoiser), Wrapped(counting.outcome))
    dream = diffusion_world_model.imagine(world, Teller(), Starts(), n_dreams=3, horizon=2, sigmas=SIGMAS)
    assert torch.is_grad_enabled(), "imagine switches gradients off and leaves them off for what comes after"
    for name, column in dream._asdict().items():
        assert not column.requires_grad, f"{name} keeps gradients: a dream is data"


def test_beginnings(played):
    """The first histories are the ones that start handed out, oldest first."""
    got = played.dream.histories[0]
    order = bytes_of(got[:, -1, 0, 0]).tolist()
    beginnings = {k: played.starts.beginning(k)[0] for k in range(played.starts.n_handed)}
    expected = torch.stack([beginnings.get(k, beginnings[0]) for k in order])
    if torch.allclose(got[:, :-1], expected[:, 1:]):
        raise AssertionError("the history is stored after the step: histories[t] is what the policy saw at t")
    mistakes = {
        "a stored history is written to later: work on a copy": lambda: played.dream.histories[-1],
        "the beginnings are turned round: the oldest frame comes first": expected.flip(1),
    }
    assert_close(got, expected, rtol=0, atol=1e-5, what="first histories", mistakes=mistakes)
    assert len(set(order)) == 5, f"the five dreams begin with the beginnings {order}: each has its own"


def test_start_is_not_written_to():
    """A beginning may be a view of the recorded games: it is read only."""
    memory = Starts.beginning(3)
    kept = [x.repeat(4, *[1] * x.ndim).contiguous() for x in memory]

    def start(n):
        return kept[0][:n], kept[1][:n]

    with unchanged(*kept):
        diffusion_world_model.imagine(
            Counting().world, Teller(), start, n_dreams=4, horizon=6, sigmas=SIGMAS, generator=seeded()
        )


# --- the first step ---------------------------------------------------------------------------------------------------


def test_histories(played):
    """A history moves on: the oldest frame goes, a new one is the newest."""
    dream = played.dream
    on = ~dream.ends[0]
    assert on.any(), (
        "all dreams end in their first step, though the world lets some go on: class 1 ends, class 0 goes on"
    )
    got, before = dream.histories[1, on], dream.histories[0, on]
    who, was = bytes_of(got[:, :, 0, 0]), bytes_of(before[:, :, 0, 0])
    same = torch.equal(who, was)
    assert same, "a dream that goes on is refilled: only those that end are"
    mistakes = {
        "the new frame is put first in the history: it is the newest, so it comes last": torch.cat(
            [got[:, :1], before[:, :1]], dim=1
        ),
        "the history does not move on": before[:, :-1],
    }
    hint = (
        "the newest frame is overwritten: the oldest one goes"
        if torch.equal(got[:, :-1], before[:, :-1])
        else None
    )
    if hint and torch.equal(got, before):
        hint = "the history does not move on"
    mistakes = {} if hint else mistakes
    what = "the older frames of the second history"
    assert_close(got[:, :-1], before[:, 1:], rtol=0, atol=1e-4, what=what, mistakes=mistakes, hint=hint)


def test_frames(played):
    """The world draws the next frame from the history and the actions, whose last one is the one just drawn."""
    right, dream = played.by_hand(), played.dream
    on = ~dream.ends[0]
    got, expected = dream.histories[1, on, -1], right["following"][0, on][:, -1]
    mistakes = {
        said: lambda wrong=wrong: played.by_hand(wrong)["following"][0, on][:, -1]
        for wrong, said in {
            "action late": "the action is aligned one step late: the one just drawn is the newest",
            "newest action first": "the newest action comes first: it comes last, at the newest frame",
            "newest first": "the newest frame comes first in the history: the oldest does",
            "late history": "the world is asked with a history that lacks its newest frame",
        }.items()
    }
    hint = "the world is not asked with the history and the actions up to now, the newest last"
    assert_close(
        got, expected, rtol=0, atol=1e-4, what="frames of the first step", hint=hint, mistakes=mistakes
    )


def test_what_the_outcome_is_asked(played):
    """world.outcome(newest frame, action, next frame)."""
    _, _, frames, actions, following = (column[0] for column in played.answers())
    right = played.by_hand()
    histories, drawn = right["histories"][0], right["following"][0, :, -1]
    newest = histories[:, -1]
    how = {"rtol": 0, "atol": 1e-4}
    mistakes = {
        "the frames are exchanged: first the newest frame of the history, then the next one": drawn,
        "the oldest frame is handed over, not the newest": histories[:, 0],
    }
    assert_close(frames, newest, what="first frame of world.outcome", mistakes=mistakes, **how)
    mistakes = {
        "the newest frame is handed over twice: the third argument is the frame that was drawn": newest,
    }
    assert_close(following, drawn, what="next frame of world.outcome", mistakes=mistakes, **how)
    mistakes = {"world.outcome gets the action before the one that was drawn": right["past"][0, :, -1]}
    what = "action of world.outcome"
    assert_close(actions, played.dream.actions[0], what=what, mistakes=mistakes, vacuous_ok=FOLLOWS)


# --- what the columns hold --------------------------------------------------------------------------------------------


def test_rewards(played):
    """-1, 0 and 1 for the classes 0, 1 and 2 that the world's answer says, in each step."""
    expected, ends, *_ = played.answers()
    mistakes = {
        "the reward is the number of its class: -1, 0, 1 are the classes 0, 1, 2": expected + 1,
        "the reward's sign is wrong: class 0 is -1, class 2 is 1": -expected,
        "the reward of a step that ends the game is lost": expected * ~ends,
        "rewards are stored one step late": expected.roll(1, 0),
    }
    assert_close(played.dream.rewards, expected, rtol=0, what="rewards", mistakes=mistakes)


def test_ends(played):
    """The step that ends the game says so; the horizon ends nothing."""
    _, expected, *_ = played.answers()
    over = expected.clone()
    over[-1] = True
    mistakes = {
        "the horizon's end is treated as the game's: after the last step the game goes on": over,
        "ends are turned round: class 1 ends": ~expected,
        "ends are stored one step late": torch.cat([torch.zeros_like(expected[:1]), expected[:-1]]),
    }
    assert_close(played.dream.ends, expected, what="ends", mistakes=mistakes)


def test_a_dream_that_ends_begins_anew(played):
    """In the next step its history is a new beginning, whole; the other dreams go on."""
    right, dream = played.by_hand(), played.dream
    ended = dream.ends[:-1]
    got, expected = dream.histories[1:], right["histories"][1:]
    shown, before = bytes_of(got[:, :, -1, 0, 0]), bytes_of(dream.histories[:-1, :, -1, 0, 0])
    kept = bool(((shown == before) & ended).any())
    assert not kept, (
        "a dream that ends is not refilled: the next step goes on from its last frames, two games are mixed"
    )
    goes_on = torch.equal(shown[~ended], before[~ended])
    assert goes_on, "a dream that goes on is refilled: only those that end are"
    begun = [*bytes_of(dream.histories[0, :, -1, 0, 0]).tolist(), *shown[ended].tolist()]
    assert max(begun) < played.starts.n_handed, "a dream goes on from a history that start has not handed out"
    assert len(set(begun)) == len(begun), "one beginning is used twice: start(n) hands out n of them"
    got, expected = got[ended], expected[ended]
    newest = torch.allclose(got[:, -1], expected[:, -1], atol=1e-4)
    mistakes = {"the new beginning's frames stand in another order: oldest first": expected.flip(1)}
    hint = "only the newest frame is refilled: the whole history is" if newest else None
    assert_close(
        got, expected, rtol=0, atol=1e-4, what="histories after an end", mistakes=mistakes, hint=hint
    )


def test_past_actions_after_an_end(played):
    """The new beginning has actions of its own between its frames: the world is told those, not the old game's."""
    right = played.by_hand()
    twice = played.dream.ends[:-2] & ~played.dream.ends[1:-1]  # it ends, and goes on after the first new step
    assert twice.sum() > 2, "too few dreams go on after an end: does the world's answer end them?"
    got = played.dream.histories[2:, :, -1]
    expected = right["following"][1:-1, :, -1]
    kept = played.by_hand("refilled in the history only")["following"][1:-1, :, -1]
    mistakes = {
        "past actions are not refilled: a dream's new history has the actions of the old game": kept[twice]
    }
    what = "frames one step after an end"
    assert_close(got[twice], expected[twice], rtol=0, atol=1e-4, what=what, mistakes=mistakes)


def test_the_whole_walk(played):
    """All histories, rewards and ends, to the horizon."""
    right, dream = played.by_hand(), played.dream
    hint = "the dream is not what the world makes of its actions: histories and past actions move on together"
    how = {"rtol": 0, "atol": 1e-4, "hint": hint}
    assert_close(dream.histories, right["histories"], what="histories", **how)
    assert_close(dream.rewards, right["rewards"], what="rewards", **how)
    assert_close(dream.ends, right["ends"], what="ends", hint=hint)


def test_what_the_policy_sees(played):
    """V(history_t) and log π(a_t|history_t), of the history that is stored."""
    right = played.by_hand()
    histories = right["histories"]
    with torch.no_grad():
        logits = played.policy(histories.flatten(0, 1))[0].double()
    log_p = (logits - logits.logsumexp(1, keepdim=True)).reshape(9, 5, 3)
    taken = played.dream.actions[..., None]
    expected = log_p.gather(2, taken)[..., 0]
    led_to = torch.cat([histories[:1], right["following"][:-1]])  # no refill
    with torch.no_grad():
        stale = played.policy(led_to.flatten(0, 1))[0].log_softmax(1).reshape(9, 5, 3)
    early = "the policy is asked before the refill: π and V are those of the new beginning"
    mistakes = {
        early: stale.gather(2, taken)[..., 0],
        "these are probabilities, not their logarithms": expected.exp(),
        "these are logits, not log-probabilities: the softmax is missing": logits.reshape(9, 5, 3).gather(
            2, taken
        )[..., 0],
        "these are the log-probabilities of the likeliest action, not of the one that was drawn": log_p.amax(
            2
        ),
        "these are the log-probabilities of action 0, not of the one that was drawn": log_p[..., 0],
    }
    how = {"dtype": torch.float32, "rtol": 1e-3, "atol": 2e-3, "mistakes": mistakes}
    assert_close(played.dream.log_probs, expected, what="log_probs", **how)
    values = played.value(histories)
    mistakes = {
        "values[t] is V of the history before the step, V(history_t)": played.value(right["following"]),
        early: played.value(led_to),
    }
    assert_close(played.dream.values, values, rtol=1e-3, atol=2e-3, what="values", mistakes=mistakes)


def test_next_values(played):
    """V of the history that the step led to: where the game ended that is not the new beginning, and the horizon ends nothing."""
    right = played.by_hand()
    led_to = played.value(right["following"])
    values = played.value(right["histories"])
    refilled = torch.cat([torch.where(right["ends"][:-1], values[1:], led_to[:-1]), led_to[-1:]])
    mistakes = {
        "next_values are those of the refilled history: V of what the step led to is asked for": refilled,
        "next_values are 0 where the game ended: V of what the step led to is asked for": led_to
        * ~right["ends"],
        "next_values are V(s_t): V of what the step led to is asked for": values,
        "next_values are two steps ahead": torch.cat([led_to[1:], led_to[-1:]]),
        "the last row of next_values is 0: the horizon's end is not the game's": torch.cat(
            [led_to[:-1], torch.zeros(1, 5)]
        ),
        "the last row of next_values is V(s_t): it is V of what the last step led to": torch.cat(
            [led_to[:-1], values[-1:]]
        ),
    }
    got = played.dream.next_values
    # the last row of a dream that ends there: its refilled history is not seen in the dream
    ends_last = right["ends"][-1]
    last_is_off = (got[-1] - led_to[-1]).abs() > 2e-3
    if (
        torch.allclose(got[:-1], refilled[:-1], atol=2e-3)
        and torch.equal(last_is_off, ends_last)
        and ends_last.any()
    ):
        raise AssertionError(
            "next_values are those of the refilled history: V of what the step led to is asked for"
        )
    assert_close(got, led_to, rtol=1e-3, atol=2e-3, what="next_values", mistakes=mistakes)


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    """12,000 dreams of two steps in a world of chance, dreamt once for all tests of this part."""
    patch = pytest.MonkeyPatch()
    lend(patch, "preconditioning", "to_bytes", "denoise", "next_frame")
    try:
        return diffusion_world_model.imagine(
            Chancy().world,
            Constant(),
            grey_starts,
            n_dreams=12000,
            horizon=2,
            sigmas=SIGMAS[1:],
            generator=seeded(3),
        )
    finally:
        patch.undo()


def shares(column, classes):
    """How often each class came."""
    return [float((column == k).double().mean()) for k in classes]


def check_draws(column, classes, probabilities, what):
    """Each class as often as its probability says, to five standard errors, in each step."""
    for t in range(len(column)):
        got = shares(column[t], classes)
        told = ", ".join(f"{share:.2f}" for share in got)
        said = f"{what} {classes} of 12000 dreams come with shares {told}; their probabilities are {probabilities}"
        if sum(got) < 0.999:
            raise AssertionError(f"{what} are not drawn: some are none of {classes}. {said}")
        if max(got) == 1.0:
            raise AssertionError(f"{what} are not drawn: argmax, or one draw for all dreams? {said}")
        for share, p in zip(got, probabilities, strict=True):
            assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 12000), (
                f"{what} are not drawn from softmax(logits): {said}"
            )


def test_actions_are_drawn(many):
    """0.2, 0.3 and 0.5."""
    check_draws(many.actions, [0, 1, 2], [0.2, 0.3, 0.5], "actions")


def test_rewards_are_drawn(many):
    """0.2, 0.5 and 0.3."""
    check_draws(many.rewards, [-1, 0, 1], [0.2, 0.5, 0.3], "rewards")


def test_ends_are_drawn(many):
    """0.7 and 0.3."""
    check_draws(many.ends, [False, True], [0.7, 0.3], "ends")


def test_actions_are_the_policys():
    """A policy that is sure of itself: what is done is what it says of the history that is stored."""

    def sure(history):
        choice = (bytes_of(history[:, -1, 0, :2]) @ torch.tensor([2, 1])) % 3
        return LOUD * torch.nn.functional.one_hot(choice, 3).float(), history.mean((1, 2, 3))

    dream = diffusion_world_model.imagine(
        Counting().world, sure, Starts(), n_dreams=5, horizon=6, sigmas=SIGMAS, generator=seeded(1)
    )
    expected = torch.stack([sure(history)[0].argmax(1) for history in dream.histories])
    hint = "the actions are not drawn from what the policy says of the stored histories"
    assert_close(
        dream.actions, expected, what="actions of a policy that is sure", hint=hint, vacuous_ok=FOLLOWS
    )
    least = float(dream.log_probs.min())
    assert abs(least) < 1e-4, (
        f"a log-probability of a policy that is sure is {least}, not 0: exp overflows, take log_softmax"
    )


def test_draws_of_rows_apart():
    """One dream's logits are far above another's: each softmax is of its own row."""

    def policy(history):
        return torch.tensor([[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0]]), torch.zeros(2)

    dream = diffusion_world_model.imagine(
        Chancy().world, policy, grey_starts, n_dreams=2, horizon=3, sigmas=SIGMAS[1:], generator=seeded(1)
    )
    assert (dream.actions[:, 1] == 0).all(), "logits of 1000, 0 and 0 leave action 0 only"
    assert dream.log_probs.isfinite().all(), (
        "log-probabilities are not finite beside a row with a logit of 1000"
    )


@pytest.mark.parametrize("n_dreams", [1, 4])
def test_all_dreams_end_in_one_step(n_dreams):
    """Each of them begins anew, whole, and the horizon is reached."""
    starts = Starts()
    world = World(Counting().denoiser, Chancy((0.2, 0.5, 0.3), (0.0, 1.0)).outcome)
    dream = diffusion_world_model.imagine(
        world, Teller(), starts, n_dreams=n_dreams, horizon=4, sigmas=SIGMAS, generator=seeded(2)
    )
    assert len(dream.actions) == 4, (
        f"{len(dream.actions)} of 4 steps are dreamt when all dreams end in one step"
    )
    assert dream.ends.all(), "the world says that every step ends the game"
    begun = bytes_of(dream.histories[..., -1, 0, 0]).flatten().tolist()
    assert len(set(begun)) == 4 * n_dreams, (
        f"a dream that ends is not refilled where all end at once: the beginnings were {begun}"
    )


def test_draws_are_independent(many):
    """Action, reward and end of one step, and of the next, know nothing of each other."""
    columns = {"action": many.actions, "reward": many.rewards, "end": many.ends}
    rows = {
        f"{name} of step {t + 1}": column[t].to(DOUBLE) for name, column in columns.items() for t in (0, 1)
    }
    names = list(rows)
    table = torch.corrcoef(torch.stack(list(rows.values())))
    for i, name in enumerate(names):
        for j in range(i):
            assert abs(table[i, j]) < 5 / math.sqrt(12000), (
                f"{name} hangs on {names[j]} (correlation {table[i, j]:.2f}): each is drawn anew"
            )


def test_log_probs_of_what_was_drawn(many):
    """ln 0.2, ln 0.3 or ln 0.5, as the action says."""
    expected = torch.tensor([0.2, 0.3, 0.5]).log()[many.actions]
    mistakes = {"these are not the log-probabilities of the action that was drawn": many.log_probs.roll(1, 0)}
    assert_close(many.log_probs, expected, rtol=1e-5, what="log_probs of 12000 dreams", mistakes=mistakes)


# --- the generator, the grid ------------------------------------------------------------------------------------------


def dreamt(generator, n_dreams=30):
    """A dream in which everything is left to chance, and the frames are noise."""

    def grainy(scaled, c_noise, history, actions):
        return scaled * 0.5

    world = World(grainy, Chancy().outcome)
    return diffusion_world_model.imagine(
        world, Constant(), grey_starts, n_dreams=n_dreams, horizon=5, sigmas=SIGMAS, generator=generator
    )


def test_generator_of_imagine():
    """All draws come from the generator that is passed: actions, rewards, ends, frames; torch's own stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        one = dreamt(seeded(4))
        moved = not torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(2)
        again, other = dreamt(seeded(4)), dreamt(seeded(5))
    for name in (
        "actions",
        "rewards",
        "ends",
    ):  # of the first step: later ones hang on all that was drawn before
        same = torch.equal(getattr(one, name)[0], getattr(again, name)[0])
        assert same, f"{name} are not drawn from the generator that is passed: the same seed gives others"
    for name, column in one._asdict().items():
        same, changes = (
            torch.equal(column, getattr(again, name)),
            not torch.equal(column, getattr(other, name)),
        )
        assert same, f"{name} are not drawn from the generator that is passed: the same seed gives others"
        assert changes, f"another seed gives the same {name}"
    assert not moved, "torch's global generator has moved: draw from the one that is passed"


def test_generator_moves_on():
    """Two dreams from one generator differ, and so do the frames of one dream."""
    generator = seeded(6)
    one, other = dreamt(generator), dreamt(generator)
    same = torch.equal(one.histories, other.histories)
    assert not same, "two dreams from one generator are the same: it is to move on"
    same = torch.equal(one.histories[1, :, -1], other.histories[1, :, -1])
    assert not same, "two dreams from one generator have the same noise in their frames: it is to move on"
    frames = one.histories[1:, :, -1, 0, 0][:, ~one.ends.any(0)]
    assert len(frames.unique(dim=0)) == len(frames), (
        "the frames of one dream come from the same noise in each step"
    )


def test_without_a_generator():
    """Then torch's own: two dreams differ."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, other = dreamt(None, 40), dreamt(None, 40)
    same = torch.equal(one.actions, other.actions)
    assert not same, "without a generator each dream is the same"


def test_grid_is_used():
    """The world draws along `sigmas`: as many calls of the denoiser per step, at those levels."""
    counting = Counting()
    sigmas = torch.tensor([3.0, 1.0, 0.25, 0.0])
    diffusion_world_model.imagine(
        counting.world, Teller(), Starts(), n_dreams=3, horizon=2, sigmas=sigmas, generator=seeded()
    )
    told = torch.stack([sigma[0] for sigma in counting.denoiser.sigmas])
    expected = sigmas[:-1].double().repeat(2)
    assert_close(told, expected, rtol=1e-4, what="levels that the denoiser is told in two steps")


def test_one_past_frame():
    """A history of one frame has no actions between its frames."""

    def start(n):
        return torch.full((n, 1, 2, 3), level(100.0)), torch.zeros(n, 0, dtype=torch.int64)

    policy = Teller(n_past=1)
    world = World(
        lambda scaled, c_noise, history, actions: 0.1 * actions[:, -1, None, None] + 0 * scaled,
        Chancy().outcome,
    )
    dream = diffusion_world_model.imagine(
        world, policy, start, n_dreams=4, horizon=5, sigmas=SIGMAS, generator=seeded()
    )
    assert dream.histories.shape == (5, 4, 1, 2, 3), f"histories of one frame: {tuple(dream.histories.shape)}"


def test_one_dream_of_one_step():
    """The smallest dream keeps its axes."""
    dream = diffusion_world_model.imagine(
        Counting().world, Teller(), Starts(), n_dreams=1, horizon=1, sigmas=SIGMAS, generator=seeded()
    )
    for name, column in dream._asdict().items():
        shape = (1, 1, N_PAST, 2, 3) if name == "histories" else (1, 1)
        got = tuple(column.shape)
        assert got == shape, f"{name} of one dream of one step has shape {got}, expected {shape}"

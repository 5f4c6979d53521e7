"""Dreams. Oracle: a world that counts, dreamt again by hand with the actions that the dream took.

Its frames say who they are, when, what was done and what was seen before; its rewards and ends are certain. What is drawn at
random is judged by its law, since a right answer may draw in any order.
"""

import math

import pytest
import torch
from oracles import DOUBLE, bytes_of, lend, level, seeded
from toys import N_PAST, Chancy, Constant, Counting, Starts, Teller, grey_starts, replay

import diffusion_world_model
from dream import Dream, World
from shared.testing.checks import assert_close, unchanged

pytestmark = pytest.mark.grades("imagine")
SIGMAS = torch.tensor([5.0, 0.3, 0.0])
KINDS = {"actions": torch.int64, "ends": torch.bool}  # the others are float32


@pytest.fixture(autouse=True)
def lent(monkeypatch):
    """The other units of the learner's need not be written."""
    lend(monkeypatch, "preconditioning", "to_bytes", "denoise", "next_frame")


class Played:
    """A dream in the counting world, and the same one by hand."""

    def __init__(self, n_dreams=5, horizon=9, seed=0):
        self.counting, self.policy, self.starts = Counting(), Teller(scale=0.2), Starts()
        self.dream = diffusion_world_model.imagine(
            self.counting.world, self.policy, self.starts, n_dreams=n_dreams, horizon=horizon, sigmas=SIGMAS,
            generator=seeded(seed),
        )  # fmt: skip
        assert isinstance(self.dream, Dream), f"a {type(self.dream).__name__} is returned, expected a Dream"
        n_steps = len(self.dream.actions)
        assert n_steps == horizon, f"the dream has {n_steps} steps, horizon is {horizon}"

    def by_hand(self, wrong=None):
        return replay(self.dream, self.starts, wrong)

    @torch.no_grad()
    def value(self, histories):
        return self.policy(histories.flatten(0, 1))[1].reshape(histories.shape[:2])


@pytest.fixture
def played():
    """Nine steps of five dreams, of which several end, and one in its last step."""
    return Played()


# --- the contract -----------------------------------------------------------------------------------------------------


def test_shapes_and_dtypes(played):
    """(T, B, ...), time first, without gradients."""
    for name, column in played.dream._asdict().items():
        shape = (9, 5, N_PAST, 2, 3) if name == "histories" else (9, 5)
        assert isinstance(column, torch.Tensor), f"{name} is a {type(column).__name__}, not a tensor"
        got = tuple(column.shape)
        assert got == shape, f"{name} has shape {got}, expected {shape}: time first, then the dreams"
        kind = KINDS.get(name, torch.float32)
        assert column.dtype == kind, f"{name} is {column.dtype}, expected {kind}"
        assert not column.requires_grad, f"{name} keeps gradients: a dream is data"


def test_no_gradients():
    """The policy and the world are asked with gradients off, so that no step keeps its graph."""
    on = []
    counting, policy = Counting(), Teller()

    def watching(history):
        on.append(torch.is_grad_enabled())
        return policy(history)

    def outcome(*asked):
        on.append(torch.is_grad_enabled())
        return counting.outcome(*asked)

    world = World(counting.denoiser, outcome)
    diffusion_world_model.imagine(world, watching, Starts(), n_dreams=3, horizon=2, sigmas=SIGMAS)
    assert not any(on), "the policy or the world is asked with gradients on: a dream keeps none"


def test_beginnings(played):
    """The first histories are the ones that start handed out, oldest first; what start returned stays as it was."""
    first = [played.starts.beginning(k)[0] for k in range(5)]
    got = played.dream.histories[0]
    order = bytes_of(got[:, -1, 0, 0]).tolist()
    assert len(set(order)) == 5, f"the five dreams begin with the beginnings {order}: each has its own"
    expected = torch.stack([first[k] if k < 5 else first[0] for k in order])
    assert_close(got, expected, rtol=0, what="first histories")


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


# --- what the world is asked ------------------------------------------------------------------------------------------


def test_frames(played):
    """The world draws the next frame from the history and the actions, whose last one is the one just drawn."""
    right, dream = played.by_hand(), played.dream
    going_on = ~right["ends"][0]
    got, expected = dream.histories[1, going_on, -1], right["following"][0, going_on, :][:, -1]
    mistakes = {
        said: lambda wrong=wrong: played.by_hand(wrong)["following"][0, going_on][:, -1]
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


def test_histories(played):
    """A history moves on by the frame that was drawn: the oldest goes, the new one is the newest."""
    right, dream = played.by_hand(), played.dream
    going_on = (~right["ends"]).cummin(0).values[:-1].bool()  # no end yet
    got, before = dream.histories[1:][going_on], dream.histories[:-1][going_on]
    newest_first = played.by_hand("newest frame put first")["following"][:-1][going_on]
    expected = right["following"][:-1][going_on]
    mistakes = {
        "the new frame is put first in the history: it is the newest, so it comes last": newest_first,
        "the history does not move on": before,
        "the history is stored after the step: histories[t] is what the policy saw at t": torch.roll(
            right["following"], -1, 0
        )[:-1][going_on],
        "the newest frame is overwritten: the oldest one goes": torch.cat(
            [before[:, :-1], expected[:, -1:]], dim=1
        ),
    }
    assert_close(got, expected, rtol=0, atol=1e-4, what="histories before any end", mistakes=mistakes)


def test_what_the_outcome_is_asked(played):
    """world.outcome(newest frame, action, next frame)."""
    right, asked = played.by_hand(), played.counting.outcomes
    assert len(asked) == 9, f"world.outcome is asked {len(asked)} times in 9 steps"
    frames, actions, following = (torch.stack(column)[:1] for column in zip(*asked, strict=True))
    histories, drawn = right["histories"][:1], right["following"][:1, :, -1]
    newest = histories[:, :, -1]
    how = {"rtol": 0, "atol": 1e-4}
    mistakes = {
        "the frames are exchanged: first the newest frame of the history, then the next one": drawn,
        "the oldest frame is handed over, not the newest": histories[:, :, 0],
    }
    assert_close(frames, newest, what="first frame of world.outcome", mistakes=mistakes, **how)
    mistakes = {
        "the newest frame is handed over twice: the third argument is the frame that was drawn": newest,
        "the frames are exchanged: first the newest frame of the history, then the next one": newest,
    }
    assert_close(following, drawn, what="next frame of world.outcome", mistakes=mistakes, **how)
    late = right["past"][:1, :, -1]
    mistakes = {"world.outcome gets the action before the one that was drawn": late}
    assert_close(actions, played.dream.actions[:1], what="action of world.outcome", mistakes=mistakes)


# --- what the columns hold --------------------------------------------------------------------------------------------


def test_rewards(played):
    """-1, 0 and 1 for the classes 0, 1 and 2, at the step of the action."""
    expected = played.by_hand()["rewards"][:1]
    got = played.dream.rewards[:1]
    mistakes = {
        "the reward is the number of its class: -1, 0, 1 are the classes 0, 1, 2": expected + 1,
        "the reward's sign is wrong: class 0 is -1, class 2 is 1": -expected,
    }
    assert_close(got, expected, rtol=0, what="rewards of the first step", mistakes=mistakes)


def test_ends(played):
    """The step that ends the game says so; the horizon ends nothing."""
    expected, got = played.by_hand()["ends"], played.dream.ends
    over = expected.clone()
    over[-1] = True
    late = torch.cat([torch.zeros_like(expected[:1]), expected[:-1]])
    mistakes = {
        "the horizon's end is treated as the game's: after the last step the game goes on": over,
        "ends are turned round: class 1 ends": ~expected,
        "ends are stored one step late": late,
    }
    first = torch.ones_like(expected)
    first[1:] = expected[:-1].cummax(0).values.logical_not()  # after an end other tests look
    shown = {name: value[first] for name, value in mistakes.items()}
    assert_close(got[first], expected[first], what="ends up to the first of each dream", mistakes=shown)
    assert torch.equal(got[-1], expected[-1]) or not torch.equal(got[-1], over[-1]), (
        "the horizon's end is treated as the game's: after the last step the game goes on"
    )


def test_a_dream_that_ends_begins_anew(played):
    """In the next step its history is a new beginning, whole; the other dreams go on."""
    right, dream = played.by_hand(), played.dream
    ended = right["ends"][:-1]
    assert ended.sum() > 5, "defect in the test: too few dreams end"
    got = dream.histories[1:]
    shown = bytes_of(got[:, :, -1, 0, 0])
    before = bytes_of(dream.histories[:-1, :, -1, 0, 0])
    # a beginning may be handed out to any dream, but only once
    same = (shown == before) & ended
    assert not same.any(), (
        "a dream that ends is not refilled: the next step goes on from its last frames, two games are mixed"
    )
    assert torch.equal(shown[~ended], before[~ended]), (
        "a dream that goes on is refilled: only those that end are"
    )
    begun = [*bytes_of(dream.histories[0, :, -1, 0, 0]).tolist(), *shown[ended].tolist()]
    assert max(begun) < played.starts.n_handed, "a dream goes on from a history that start has not handed out"
    assert len(set(begun)) == len(begun), "one beginning is used twice: start(n) hands out n of them"
    following = right["following"][:-1]
    newest_only = got.clone()
    newest_only[ended] = torch.cat([following[:, :, 1:], got[:, :, -1:]], dim=2)[ended]
    mistakes = {
        "only the newest frame is refilled: the whole history is": newest_only[ended],
        "the new beginning's frames stand in another order: oldest first": right["histories"][1:].flip(2)[
            ended
        ],
    }
    expected = right["histories"][1:][ended]
    assert_close(got[ended], expected, rtol=0, atol=1e-4, what="histories after an end", mistakes=mistakes)


def test_past_actions_after_an_end(played):
    """The new beginning has actions of its own between its frames: the world is told those, not the old game's."""
    right = played.by_hand()
    ended = right["ends"][:-2]
    got = played.dream.histories[2:, :, -1]
    expected = right["following"][1:-1, :, -1]
    twice = ended & ~right["ends"][1:-1]
    mistakes = {
        "past actions are not refilled: a dream's new history has the actions of the old game": played.by_hand(
            "refilled in the history only"
        )["following"][1:-1, :, -1][twice],
    }
    assert_close(
        got[twice], expected[twice], rtol=0, atol=1e-4, what="frames one step after an end", mistakes=mistakes
    )


def test_the_whole_walk(played):
    """All histories, rewards and ends, to the horizon."""
    right, dream = played.by_hand(), played.dream
    hint = "the dream is not what the world makes of its actions: histories and past actions move on together"
    how = {"rtol": 0, "atol": 1e-4}
    mistakes = {
        "past actions are not refilled: a dream's new history has the actions of the old game": (
            lambda: played.by_hand("refilled in the history only")["histories"]
        ),
    }
    assert_close(dream.histories, right["histories"], what="histories", hint=hint, mistakes=mistakes, **how)
    mistakes = {
        "the reward of a step that ends the game is lost": right["rewards"] * ~right["ends"],
        "rewards are stored one step late": torch.roll(right["rewards"], 1, 0),
    }
    assert_close(dream.rewards, right["rewards"], what="rewards", hint=hint, mistakes=mistakes, **how)
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
    mistakes = {
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
    """3,000 dreams of two steps in a world of chance, dreamt once for all tests of this part."""
    patch = pytest.MonkeyPatch()
    lend(patch, "preconditioning", "to_bytes", "denoise", "next_frame")
    try:
        return diffusion_world_model.imagine(
            Chancy().world,
            Constant(),
            grey_starts,
            n_dreams=3000,
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
        said = f"{what} {classes} of 3000 dreams come with shares {told}; their probabilities are {probabilities}"
        if max(got) == 1.0:
            raise AssertionError(f"{what} are not drawn: argmax, or one draw for all dreams? {said}")
        for share, p in zip(got, probabilities, strict=True):
            assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 3000), (
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
            assert abs(table[i, j]) < 5 / math.sqrt(3000), (
                f"{name} hangs on {names[j]} (correlation {table[i, j]:.2f}): each is drawn anew"
            )


def test_log_probs_of_what_was_drawn(many):
    """ln 0.2, ln 0.3 or ln 0.5, as the action says."""
    expected = torch.tensor([0.2, 0.3, 0.5]).log()[many.actions]
    mistakes = {"these are not the log-probabilities of the action that was drawn": many.log_probs.roll(1, 0)}
    assert_close(many.log_probs, expected, rtol=1e-5, what="log_probs of 3000 dreams", mistakes=mistakes)


# --- the generator, the grid ------------------------------------------------------------------------------------------


def dreamt(generator, n_dreams=6):
    """A dream in which everything is left to chance, and the frames are noise."""

    def grainy(scaled, c_noise, history, actions):
        return scaled * 0.5

    world = World(grainy, Chancy().outcome)
    return diffusion_world_model.imagine(
        world, Constant(), grey_starts, n_dreams=n_dreams, horizon=5, sigmas=SIGMAS, generator=generator
    )


def test_generator_of_imagine():
    """All draws come from the generator that is passed: actions, frames, rewards, ends; torch's own stays as it is."""
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = dreamt(seeded(4))
        torch.manual_seed(2)
        again, other = dreamt(seeded(4)), dreamt(seeded(5))
    for name in ("actions", "histories", "rewards", "ends"):
        mine = getattr(one, name)
        assert torch.equal(mine, getattr(again, name)), (
            f"{name} are not drawn from the generator that is passed: the same seed gives others"
        )
        assert not torch.equal(mine, getattr(other, name)), f"another seed gives the same {name}"
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        dreamt(seeded(4))
        assert torch.equal(torch.get_rng_state(), state), (
            "torch's global generator has moved: draw from the one that is passed"
        )


def test_without_a_generator():
    """Then torch's own: two dreams differ."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one, other = dreamt(None, 40), dreamt(None, 40)
    assert not torch.equal(one.actions, other.actions), "without a generator each dream is the same"


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

"""The judge of the game. Oracles: games worked by hand, the law that the ball ends at 9 - c, frequencies, Gymnasium's spaces."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import game
from game import BALL, N_ACTIONS, N_STEPS, PADDLE, SIZE, WALL, Catch
from shared.testing.checks import expect_error

pytestmark = pytest.mark.grades()
LEFT, STAY, RIGHT = 0, 1, 2


def at(*, row=0, column, direction=1, paddle=4, gust=0.0, seed=0):
    """Games in known states, one for each entry of the longest list."""
    state = np.broadcast_arrays(row, column, direction, paddle)
    game = Catch(state[0].size, gust=gust)
    game.reset(seed=seed)
    game.row, game.column, game.direction, game.paddle = (np.array(s).reshape(-1) for s in state)
    return game


def stay(game):
    return np.ones(game.num_envs, dtype=np.int64)


def test_spaces_hold_what_comes():
    """Frames, actions and what a step returns are of the announced shapes and types."""
    game = Catch(5, gust=0.3)
    frames, infos = game.reset(seed=3)
    assert infos == {}, "reset has infos"
    assert (SIZE, N_STEPS, N_ACTIONS, game.num_envs) == (12, 9, 3, 5), "the game's constants are others"
    assert game.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP, (
        "the way it starts again is not announced"
    )
    assert game.single_observation_space.shape == (12, 12), "a frame is 12 by 12"
    assert game.single_action_space.n == 3, "there are three actions"
    game.action_space.seed(0)
    for _ in range(2 * N_STEPS):
        assert game.observation_space.contains(frames), "the observation space does not hold the frames"
        actions = game.action_space.sample()
        frames, rewards, ended, cut, infos = game.step(actions)
        assert rewards.dtype == np.float64, f"rewards are {rewards.dtype}"
        assert ended.dtype == cut.dtype == np.bool_, f"ends are {ended.dtype} and {cut.dtype}"
        assert rewards.shape == ended.shape == cut.shape == (5,), "a step's columns are (num_envs,)"
        assert not cut.any(), "no game is ever cut off"
        if ended.any():
            assert game.observation_space.contains(infos["final_obs"]), (
                "the space does not hold the last frames"
            )


def test_the_seed_decides():
    """The same seed and actions give the same games, starts after an end and wind included; other seeds give others."""

    def play(seed):
        game, rng = Catch(6, gust=0.5), np.random.default_rng(0)
        shown = [game.reset(seed=seed)[0]]
        shown += [game.step(rng.integers(3, size=6))[0] for _ in range(2 * N_STEPS)]
        return np.stack(shown)

    assert np.array_equal(play(1), play(1)), "the same seed gives other games"
    assert not np.array_equal(play(1), play(2)), "the seed is ignored"
    game = Catch(20)
    first = game.reset(seed=0)[0]
    assert not np.array_equal(first, game.reset()[0]), "a reset without a seed begins the same games again"


def test_a_frame_by_hand():
    """A wall around the field, a paddle two wide in the bottom row, one ball; the ball hides the paddle."""
    frames = at(row=[2, 9], column=[7, 3], paddle=[0, 3]).frames()
    assert frames.dtype == np.float32, f"frames are {frames.dtype}"
    wanted = np.full((2, 12, 12), -0.5)
    wanted[:, 1:11, 1:11] = -1
    wanted[0, 10, 1] = wanted[0, 10, 2] = 0.5
    wanted[1, 10, 4] = wanted[1, 10, 5] = 0.5
    wanted[0, 3, 8] = wanted[1, 10, 4] = 1
    assert np.array_equal(frames, wanted), "a frame is not as it is described"
    assert (WALL, PADDLE, BALL) == (-0.5, 0.5, 1.0), "the grey levels are others"


def test_how_a_game_starts():
    """Ball in the top row, at each column alike; both directions alike; the paddle at each of nine places alike."""
    game = Catch(9000)
    game.reset(seed=0)
    assert not game.row.any(), "the ball does not start in the top row"
    for name, values, kinds in (
        ("column", game.column, range(10)), ("direction", game.direction, (-1, 1)), ("paddle", game.paddle, range(9)),
    ):  # fmt: skip
        shares = [np.mean(values == kind) for kind in kinds]
        assert set(values) <= set(kinds), f"the {name} starts outside of {list(kinds)}"
        assert np.ptp(shares) < 0.03, f"the {name} does not start at each value alike: {shares}"
    rightward = [np.mean(game.direction[game.column == c] == 1) for c in range(10)]
    assert 0.4 < min(rightward) < max(rightward) < 0.6, "the column tells the direction"
    both = at(column=[4, 4], direction=[-1, 1]).frames()
    assert np.array_equal(both[0], both[1]), "the first frame tells the direction"


@pytest.mark.parametrize(
    ("column", "direction", "wanted"),
    [(4, 1, [5, 6, 7]), (4, -1, [3, 2, 1]), (8, 1, [9, 8, 7]), (9, 1, [8, 7, 6]), (1, -1, [0, 1, 2]), (0, -1, [1, 2, 3])],
)  # fmt: skip
def test_the_ball_bounces(column, direction, wanted):
    """One row down and one column aside at each step; at a wall it turns round."""
    game, columns, rows = at(column=column, direction=direction), [], []
    for _ in wanted:
        game.step(stay(game))
        columns.append(int(game.column[0]))
        rows.append(int(game.row[0]))
    assert rows == [1, 2, 3], f"rows {rows}: the ball falls one row at each step"
    assert columns == wanted, f"columns {columns}, expected {wanted}"


def test_where_the_ball_ends():
    """From column c it comes to 9 - c, whichever way it sets out; between, the ways differ, unless it starts at a wall."""
    game = at(column=np.repeat(np.arange(10), 2), direction=np.tile([-1, 1], 10))
    between = []
    for _ in range(N_STEPS):
        frames, *_, infos = game.step(stay(game))
        between.append(game.column.reshape(10, 2).copy())
    last = infos["final_obs"][:, 10, 1:11].argmax(axis=1).reshape(10, 2)
    assert np.array_equal(last, np.repeat(9 - np.arange(10), 2).reshape(10, 2)), "the ball ends elsewhere"
    differ = [bool((way[:, 0] != way[:, 1]).any()) for way in np.stack(between[:-1], axis=1)]
    assert differ == [False] + 8 * [True] + [False], "the first direction makes no difference"
    assert frames.shape == (20, 12, 12), f"frames {frames.shape}"


def test_the_paddle():
    """It moves by -1, 0 or 1 and stops at both walls."""
    game = at(column=5, paddle=[3, 3, 3, 0, 8])
    game.step(np.array([LEFT, STAY, RIGHT, LEFT, RIGHT]))
    assert game.paddle.tolist() == [2, 3, 4, 0, 8], f"the paddle comes to {game.paddle}"


def test_rewards():
    """1 where the ball is on a cell of the paddle, after its last move; -1 beside it; 0 before the end."""
    places = [2, 3, 4, 5]  # the ball comes to column 4
    game = at(row=8, column=3, direction=1, paddle=places)
    _, rewards, ended, _, _ = game.step(stay(game))
    assert ended.all(), "the game does not end in the bottom row"
    assert rewards.tolist() == [-1, 1, 1, -1], f"rewards {rewards} for the paddle at {places}, ball at 4"
    game = at(row=8, column=3, direction=1, paddle=[2, 4, 2])
    rewards = game.step(np.array([RIGHT, RIGHT, LEFT]))[1]
    assert rewards.tolist() == [1, -1, -1], f"rewards {rewards}: the paddle moves before the ball is there"


def test_nine_steps_and_a_new_game():
    """Eight steps without an end; the ninth ends, shows the next game's first frame, and keeps the last one in infos."""
    game = Catch(4)
    game.reset(seed=0)
    for _ in range(8):
        _, rewards, ended, _, infos = game.step(stay(game))
        assert not rewards.any(), "a reward comes before the end"
        assert not ended.any(), "an end comes before the ninth step"
        assert infos == {}, "infos before the end"
    frames, rewards, ended, _, infos = game.step(stay(game))
    assert ended.all(), "the ninth step does not end the game"
    assert set(np.abs(rewards)) == {1}, f"the last rewards are {rewards}"
    assert infos["_final_obs"].all(), "_final_obs is not set where a game ended"
    assert (infos["final_obs"][:, 10, 1:11] == BALL).any(axis=1).all(), "final_obs is not the last frame"
    assert (frames[:, 1, 1:11] == BALL).any(axis=1).all(), (
        "after the end comes the first frame of the next game"
    )


def test_one_game_of_two_ends():
    """The other goes on as if nothing were."""
    game = at(row=[8, 3], column=[2, 2], direction=1)
    frames, rewards, ended, _, infos = game.step(stay(game))
    assert ended.tolist() == infos["_final_obs"].tolist() == [True, False], f"ends {ended}"
    assert rewards[1] == 0, "the game that goes on has a reward"
    assert game.row.tolist() == [0, 4], f"rows {game.row}: only the game that ended starts again"
    assert np.array_equal(frames[1], infos["final_obs"][1]), "the game that goes on is drawn in two ways"


def test_gust():
    """With probability 0.4 the wind moves the ball by one column, to each side alike; at a wall it stays; it turns nothing."""
    n = 20_000
    game = at(column=np.full(n, 5), gust=0.4)
    game.step(stay(game))
    shares = np.bincount(game.column, minlength=10) / n
    assert np.allclose(shares[[5, 6, 7]], [0.2, 0.6, 0.2], atol=0.015), f"shares of the columns: {shares}"
    assert (game.direction == 1).all(), "the wind turns the ball's direction"
    game = at(column=np.full(n, 8), gust=0.4)
    game.step(stay(game))
    shares = np.bincount(game.column, minlength=10) / n
    assert np.allclose(shares[[8, 9]], [0.2, 0.8], atol=0.015), f"shares of the columns at a wall: {shares}"
    game = at(column=np.full(200, 5), gust=1.0)
    game.step(stay(game))
    assert set(game.column) == {5, 7}, "with gust 1 the wind always blows"


@pytest.mark.parametrize("gust", [-0.1, 1.1, float("nan")])
def test_gust_must_be_a_probability(gust):
    """It is refused otherwise, and named."""
    with expect_error(ValueError, otherwise=f"gust = {gust} is accepted"):
        Catch(gust=gust)


@pytest.mark.parametrize("actions", [[0, 3], [-1, 0], [0], [0, 1, 2], [[0, 1]], [0.5, 1]], ids=str)
def test_bad_actions(actions):
    """One action in 0..2 for each game, or a ValueError."""
    game = Catch(2)
    game.reset(seed=0)
    with expect_error(ValueError, otherwise=f"actions {actions} are accepted"):
        game.step(np.array(actions))


def test_the_game_is_small():
    """Its file has at most 95 lines."""
    assert len(Path(game.__file__).read_text(encoding="utf-8").splitlines()) <= 95, "game.py is too long"

"""play.py and keys.py: the game is the real one, the dream lives on its own frames, and a terminal is left as it was."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import play
from dream import World
from game import BALL, EMPTY, PADDLE, WALL, Catch

pytestmark = pytest.mark.grades()
FOLDER = Path(__file__).resolve().parents[2]  # where the weights are, also when an answer elsewhere is judged
CAUGHT, OVER = torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[0.0, 9.0]])


def still(noisy, c_noise, history, actions):
    """A network for which each D is the newest frame."""
    still.asked.append((history.clone(), actions.clone()))
    effective = (4 * c_noise[:, None, None]).exp()  # σ_e
    total = effective**2 + 0.25
    c_skip, c_out = 0.25 / total, effective * (0.25 / total).sqrt()
    return (history[:, -1] - c_skip * noisy * total.sqrt()) / c_out


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    monkeypatch.setattr(play, "WEIGHTS", FOLDER / "weights")


@pytest.fixture
def world():
    still.asked = []
    return World(still, lambda frame, action, following: (CAUGHT, OVER))


def test_the_real_game_is_catch(world):
    game, beside = Catch(), play.Beside(world, seed=3)
    frame, _ = game.reset(seed=3)
    assert torch.equal(beside.real[:, -1], torch.tensor(frame))
    for action in (0, 2, 1, 2, 2, 0, 1, 0, 2):
        frame, reward, ended, _, infos = game.step([action])
        beside.step(action)
        assert torch.equal(beside.real[:, -1], torch.tensor(infos.get("final_obs", frame)))
        assert (beside.reward, beside.ended) == (reward[0], ended[0])
    beside.step(0)  # the next game begins, whatever the key
    assert torch.equal(beside.real, torch.tensor(frame)[:, None].expand(1, 4, 12, 12))
    assert torch.equal(beside.dreamed, beside.real)
    assert (beside.ended, beside.n_moves, beside.past.tolist()) == (False, 0, [[1, 1, 1]])


@pytest.mark.parametrize("guess", [False, True])
def test_the_dream_sees_its_own_frames_and_the_actions_that_were_taken(world, guess):
    beside = play.Beside(world, n_steps=2, guess=guess)
    first, seen = beside.real[:, -1], []
    for action in (2, 0, 0, 1):
        beside.step(action)
        seen.append(beside.real[:, -1])
    asked = still.asked[::2]  # two sampling steps a frame
    assert len(still.asked) == 2 * (4 - (not guess))
    assert beside.n_dreamed == 4 - (not guess)
    assert beside.n_wrong == beside.n_dreamed  # it stands still, and the ball falls
    stands = first if guess else seen[0]
    assert torch.allclose(beside.dreamed[:, -1], stands, atol=0.01)
    assert [actions[0].tolist() for _, actions in asked][-3:] == [[1, 1, 2, 0], [1, 2, 0, 0], [2, 0, 0, 1]]
    assert torch.allclose(asked[-1][0][0, :2], torch.stack([first, stands], dim=1)[0], atol=0.01)


@pytest.mark.parametrize(("by", "n_wrong"), [(0.29, 0), (0.31, 1)])
def test_a_difference_that_can_be_seen_counts(world, monkeypatch, by, n_wrong):
    beside = play.Beside(world)
    beside.step(1)
    pixel = by * torch.eye(12)[3] * torch.eye(12)[:, 3:4]
    monkeypatch.setattr(play, "next_frame", lambda *_, **options: torch.tensor(beside.game.frames()) + pixel)
    beside.step(1)
    assert (beside.n_wrong, beside.n_dreamed) == (n_wrong, 1)


def test_the_verdict_of_the_dream_is_shown_at_the_end(world):
    beside = play.Beside(world)
    for _ in range(9):
        beside.step(1)
    assert beside.said == (1.0, True)
    assert "the dream says +1" in play.view(beside).renderables[1].plain


def test_the_wind_blows_in_the_real_game(world):
    calm, windy = play.Beside(world, seed=1), play.Beside(world, seed=1, gust=1.0)
    calm.step(1)
    windy.step(1)
    assert not torch.equal(calm.real, windy.real)


def test_a_frame_as_text_has_four_shades():
    frame = torch.tensor([[WALL, EMPTY], [PADDLE, BALL]])
    assert play.draw(frame) == "░░  \n▓▓██"


# --- without a terminal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"), [([], "no terminal for the arrow keys"), (["--steps", "0"], "at least 1, got 0")]
)
def test_what_cannot_be_played_is_refused(monkeypatch, capsys, arguments, says):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(SystemExit):
        play.main(arguments)
    assert says in capsys.readouterr().err


def test_the_agent_plays_one_game_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    play.main(["--agent", "--steps", "1"])
    said = capsys.readouterr().out
    assert [f"move {i}," in said for i in range(1, 11)] == [True] * 9 + [False]
    assert "the dream says" in said


# --- in a terminal ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_keys_are_read_one_by_one_and_the_terminal_is_left_as_it_was():
    import pty
    import termios

    from keys import Keys

    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as terminal, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(theirs)
        with Keys() as keys:
            for pressed, key in (
                (b"\x1b[D", "left"),
                (b"\x1bOC", "right"),
                (b"\x1b[B", "down"),
                (b"x", ""),
                (b"D", ""),
            ):
                os.write(ours, pressed)
                assert keys.wait(0.05) == key
            assert keys.wait(0) == ""
            os.write(ours, b"\x1b[C" * 30 + b"\x1b[D")  # a key that repeats counts once: the last one
            assert keys.wait(0.05) == "left"
            os.write(ours, b"\x1b[Dq")
            start = time.monotonic()
            assert keys.wait(60) == "q"
            assert time.monotonic() - start < 30
        assert termios.tcgetattr(theirs) == before
    os.close(ours)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_q_quits():
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "play.py", "--steps", "1"]
    with subprocess.Popen(command, cwd=FOLDER, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        said, end = b"", time.monotonic() + 60
        try:
            while running.poll() is None and time.monotonic() < end:
                if select.select([ours], [], [], 0.1)[0]:
                    said += os.read(ours, 4096)
                    if b"real game" in said:  # from here on it reads keys
                        os.write(ours, b"\x1b[Cq")
        except OSError:  # Linux: the other side is closed
            running.wait(10)
        running.kill()
    os.close(ours)
    assert running.returncode == 0, said.decode(errors="ignore")
    assert "real game" in said.decode(errors="ignore")

"""The judge of what can be known of the game. Oracles: frames drawn by hand, the game itself, frequencies."""

import pytest
import torch
from episodes import drawn, played, seeded

import truth
from game import Catch
from shared.testing.checks import assert_close, unchanged


def balls(*columns):
    """A history of frames with the ball at these columns, falling."""
    return torch.stack([drawn((i, column), 0) for i, column in enumerate(columns)])[None]


def all_frames():
    """Every frame of the game: (900, 12, 12), rows, columns and places of the paddle."""
    row, column, paddle = (
        x.flatten() for x in torch.meshgrid(*map(torch.arange, (10, 10, 9)), indexing="ij")
    )
    game = Catch(900)
    game.row, game.column, game.paddle = row.numpy(), column.numpy(), paddle.numpy()
    return torch.tensor(game.frames()), row, column, paddle


@pytest.mark.grades
def test_read_all_frames():
    """Ball and paddle of every frame that there is, also where the ball hides a half of the paddle, and with some noise."""
    frames, row, column, paddle = all_frames()
    noise = 0.2 * (2 * torch.rand(frames.shape, generator=seeded(1)) - 1)
    for name, shown in (("", frames), (" of a noisy frame", frames + noise)):
        with unchanged(shown):
            got = truth.read(shown)
        assert all(g.dtype == torch.int64 for g in got), f"places are {[g.dtype for g in got]}"
        for what, mine, wanted in zip(
            ("ball's row", "ball's column", "paddle"), got, (row, column, paddle), strict=True
        ):
            wrong = (mine != wanted).nonzero()[:1, 0]
            assert not len(wrong), (
                f"the {what}{name} is read as {mine[wrong].item()}, not {wanted[wrong].item()}, with the ball at "
                f"row {row[wrong].item()}, column {column[wrong].item()}, the paddle at {paddle[wrong].item()}"
            )


@pytest.mark.grades
def test_crisp():
    """True for each frame of the game, also with all pixels 0.24 away, or one by 0.29; false for 0.31, no ball, two balls, a broken paddle."""
    frames = all_frames()[0][::7]
    off = 0.24 * torch.randn(frames.shape, generator=seeded(1)).sign()
    near = frames + off
    with unchanged(near):
        got = truth.crisp(near)
    assert got.dtype == torch.bool, f"crisp gives {got.dtype}"
    assert got.all(), "a frame whose pixels are at most 0.24 off is not crisp"
    assert truth.crisp(frames).all(), "a frame of the game is not crisp"
    plain = drawn((4, 4), 2)
    bad = {
        name: plain.clone()
        for name in ("far", "no ball", "two balls", "half a paddle", "wall", "a grey ball")
    }
    bad["far"][8, 8] += 0.31
    bad["no ball"][5, 5] = -1
    bad["two balls"][5, 9] = 1
    bad["half a paddle"][10, 3] = -1
    bad["wall"][0, 0] = -1
    bad["a grey ball"][5, 5] = 0.5
    good = plain.clone()
    good[8, 8] += 0.29
    got = truth.crisp(torch.stack([plain, good, *bad.values()])).tolist()
    assert got[0], "a frame drawn by hand is not crisp"
    assert got[1], "a frame with one pixel 0.29 off is not crisp"
    for name, said in zip(bad, got[2:], strict=True):
        assert not said, f"a frame is crisp though it is wrong: {name}"


@pytest.mark.grades
def test_alike():
    """No pixel differs by 0.3 or more, over any leading axes."""
    a = torch.rand(2, 3, 12, 12, generator=seeded(1))
    b = a.clone()
    b[0, 1, 5, 5] += 0.29
    b[1, 2, 0, 11] -= 0.31
    b[1, 0] += 0.1
    got = truth.alike(a, b)
    assert got.tolist() == [[True, True, True], [True, True, False]], f"alike says {got.tolist()}"


@pytest.mark.grades
def test_play_on():
    """From a real frame and direction the game shows what it showed, its final frame too."""
    frames, actions, _, _ = played(30, seed=4)
    _, row, column, _ = (None, *truth.read(frames[:, 5]))
    before = truth.read(frames[:, 4])[1]
    direction = column - before
    assert int(row[0]) == 2, "defect in the test: the frame is not that after two steps"
    with unchanged(frames, actions):
        got = truth.play_on(frames[:, 5], direction, actions[:, 5:])
    assert got.shape == (30, 7, 12, 12), f"frames {tuple(got.shape)}"
    assert torch.equal(got[:, :-1], frames[:, 6:-1]), "the game goes on otherwise than it did"
    assert torch.equal(got[:, -1], frames[:, -1]), (
        "the last frame is not the game's: it stands in infos['final_obs']"
    )


def returns_of(rule, n=500):
    """Play a rule in the real game, its logits taken greedily."""
    player, seen = truth.Rule(rule), []
    game = Catch(n)
    seen = [torch.tensor(game.reset(seed=1)[0])] * 4
    for _ in range(9):
        logits, values = player(torch.stack(seen[-4:], dim=1))
        assert (logits.shape, values.shape) == ((n, 3), (n,)), "a rule does not answer as an agent does"
        frame, rewards, *_ = game.step(logits.argmax(1).numpy())
        seen.append(torch.tensor(frame))
    return rewards


@pytest.mark.grades
def test_rules_by_hand():
    """Where a rule moves from a few frames."""

    def history(before, now, paddle):
        frames = [drawn(before, paddle), drawn(now, paddle)]
        return torch.stack([frames[0], frames[0], *frames])[None]

    cases = [
        # ball before, ball now, paddle, tracker, optimum
        ((0, 2), (1, 3), 6, -1, 1),  # it comes to column 7, by the wall at 9
        ((0, 2), (1, 1), 6, -1, 1),  # the other way, to 7 as well
        ((3, 7), (4, 8), 7, 1, -1),  # it comes to column 5, by the wall at 9
        ((3, 2), (4, 1), 2, -1, 1),  # it comes to column 4, by the wall at 0
        ((7, 7), (8, 8), 2, 1, 1),  # it comes to column 9
        ((7, 1), (8, 0), 4, -1, -1),  # it comes to column 1
        ((0, 5), (0, 5), 7, -1, 0),  # nothing is known of the direction
    ]
    for before, now, paddle, tracked, best in cases:
        for name, wanted in (("tracker", tracked), ("optimum", best)):
            got = int(truth.Rule(getattr(truth, name))(history(before, now, paddle))[0].argmax()) - 1
            assert got == wanted, (
                f"{name} moves by {got}, not {wanted}: ball {before}, then {now}, paddle at {paddle}"
            )


@pytest.mark.grades
def test_rules_in_the_game():
    """The optimum catches every ball of the game without wind, the tracker more than it misses, but not all."""
    best = returns_of(truth.optimum)
    assert best.mean() == 1.0, f"the optimum has a mean return of {best.mean()}, expected 1"
    tracked = returns_of(truth.tracker).mean()
    assert 0.4 < tracked < 0.8, f"the tracker has a mean return of {tracked}"


@pytest.mark.grades
def test_wind_by_hand():
    """Where the ball goes next, with which probability; the wind turns nothing."""
    cases = [
        # column, direction, gust -> probabilities by column, direction
        (4, 1, 0.4, {4: 0.2, 5: 0.6, 6: 0.2}, 1),
        (4, -1, 0.2, {2: 0.1, 3: 0.8, 4: 0.1}, -1),
        (9, 1, 0.4, {7: 0.2, 8: 0.6, 9: 0.2}, -1),
        (8, 1, 0.4, {8: 0.2, 9: 0.8}, 1),
        (1, -1, 0.4, {0: 0.8, 1: 0.2}, -1),
        (0, -1, 0.0, {1: 1.0}, 1),
    ]
    for column, direction, gust, wanted, after in cases:
        chances, turned = truth.wind(torch.tensor([column, 5]), torch.tensor([direction, 1]), gust)
        row = torch.zeros(10)
        row[list(wanted)] = torch.tensor(list(wanted.values()))
        assert_close(
            chances[0],
            row,
            rtol=1e-5,
            what=f"chances from column {column}, direction {direction}, gust {gust}",
        )
        assert turned.tolist() == [after, 1], (
            f"the direction becomes {turned.tolist()}, expected {[after, 1]}"
        )


@pytest.mark.grades
def test_next_column_by_hand():
    """Bayes' rule by hand: first frame, a seen direction, and a wind that hides it."""
    cases = [
        ("nothing is known of the direction", balls(4), 0.0, {3: 0.5, 5: 0.5}),
        ("the direction was seen", balls(4, 5), 0.0, {6: 1.0}),
        ("it bounced", balls(8, 9, 8), 0.0, {7: 1.0}),
        # it stood still: blown back, either way alike
        ("the wind hid the direction", balls(4, 4), 0.5, {2: 0.125, 3: 0.25, 4: 0.25, 5: 0.25, 6: 0.125}),
        # two to the right: only a ball that goes right can
        ("the wind helped", balls(4, 6), 0.5, {6: 0.25, 7: 0.5, 8: 0.25}),
    ]
    for said, history, gust, wanted in cases:
        row = torch.zeros(1, 10)
        row[0, list(wanted)] = torch.tensor(list(wanted.values()))
        assert_close(
            truth.next_column(history, gust), row, rtol=1e-4, what=f"chances of the next column where {said}"
        )


@pytest.mark.grades
def test_next_column_is_calibrated():
    """In the real game the column that comes has, on average, the log-probability that the chances announce."""
    frames = played(3000, gust=0.4, seed=3)[0][:, 3:]
    for seen in (1, 2, 4):
        chances = truth.next_column(frames[:, :seen], 0.4)
        came = truth.read(frames[:, seen])[1]
        assert_close(
            chances.sum(1), torch.ones(3000), rtol=1e-5, what="sums of the chances", vacuous_ok="they are 1"
        )
        probability = chances.gather(1, came[:, None])[:, 0]
        assert probability.min() > 0, "what happens in the game is called impossible"
        likelihood = probability.log()
        entropy = -torch.special.xlogy(chances, chances).sum(1)
        gap = (likelihood + entropy).mean().item()
        assert abs(gap) < 4 * (likelihood + entropy).std().item() / 3000**0.5, (
            f"after {seen} frames the mean log-likelihood is {likelihood.mean():.3f}, announced was {-entropy.mean():.3f}"
        )

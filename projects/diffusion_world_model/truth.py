"""What can be known of the game without learning: what a frame shows, what comes next, how the wind blows, and how to play."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from game import N_ACTIONS, N_STEPS, PADDLE, Catch

__all__ = ["Rule", "alike", "crisp", "next_column", "optimum", "play_on", "read", "tracker", "wind"]

RIGHT = 0.3  # a pixel may differ by less


# --- frames ---------------------------------------------------------------------------------------------------


def read(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row and column of the ball and the left column of the paddle, 0..9, each (B,) int64, of frames (B, 12, 12)."""
    field = frames[:, 1:-1, 1:-1]
    ball = field.flatten(1).argmax(dim=1)
    floor = field[:, -1]
    # two cells are the paddle's, unless the ball hides one of them
    is_paddle = (floor - PADDLE).abs() < 0.25
    weight = is_paddle + 0.5 * (floor > 0.75)
    return ball // 10, ball % 10, (weight[:, :-1] + weight[:, 1:]).argmax(dim=1)


def crisp(frames: Tensor) -> Tensor:
    """Say of each frame (B, 12, 12) whether it is `alike` to the game's frame of what `read` sees in it: (B,) bool."""
    game = Catch(len(frames))
    game.row, game.column, game.paddle = (place.numpy() for place in read(frames))
    return alike(frames, torch.tensor(game.frames()))


def alike(a: Tensor, b: Tensor) -> Tensor:
    """Say of each pair of frames (..., 12, 12) whether no pixel differs by 0.3 or more."""
    return (a - b).abs().amax(dim=(-2, -1)) < RIGHT


def play_on(frames: Tensor, direction: Tensor, actions: Tensor) -> Tensor:
    """Return what the game shows, (B, T, 12, 12), from the frames (B, 12, 12) and directions (B,) on, under actions (B, T)."""
    game, shown = Catch(len(frames)), []
    game.reset(seed=0)
    game.row, game.column, game.paddle = (place.numpy() for place in read(frames))
    game.direction = direction.numpy()
    for action in actions.T:
        frame, *_, infos = game.step(action.numpy())
        shown.append(torch.tensor(infos.get("final_obs", frame)))
    return torch.stack(shown, dim=1)


# --- wind -----------------------------------------------------------------------------------------------------


def wind(column: Tensor, direction: Tensor, gust: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities (B, 10) of the ball's next column, and its next direction (B,)."""
    ahead = column + direction
    direction = torch.where((ahead < 0) | (ahead > 9), -direction, direction)
    chances = torch.zeros(len(column), 10)
    for blown, probability in ((-1, gust / 2), (0, 1 - gust), (1, gust / 2)):
        place = (column + direction + blown).clamp(0, 9)
        chances.scatter_add_(1, place[:, None], torch.full((len(column), 1), probability))
    return chances, direction


def next_column(history: Tensor, gust: float) -> Tensor:
    """Return what can be known of the ball's next column, (B, 10), from the first frames of a game (B, L, 12, 12): Bayes' rule.

    Before the first move both directions are as likely; each column seen since then speaks for one of them.
    """
    columns = torch.stack([read(frame)[1] for frame in history.unbind(1)], dim=1)
    total = torch.zeros(len(history), 10)
    for sign in (-1, 1):
        direction, weight = torch.full((len(history),), sign), torch.ones(len(history), 1)
        for now, following in zip(columns.T[:-1], columns.T[1:], strict=True):
            chances, direction = wind(now, direction, gust)
            weight = weight * chances.gather(1, following[:, None])
        total += weight * wind(columns[:, -1], direction, gust)[0]
    return total / total.sum(dim=1, keepdim=True)


# --- rules: players that learn nothing ------------------------------------------------------------------------


class Rule(nn.Module):
    """A player made of a function: histories (B, L, 12, 12) -> steps of the paddle (B,), -1, 0 or 1."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rule, self.nothing = rule, nn.Parameter(torch.zeros(0))

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Answer as an agent does: logits (B, 3) and values (B,)."""
        step = self.rule(history).clamp(-1, 1).long() + 1
        return nn.functional.one_hot(step, N_ACTIONS).float(), torch.zeros(len(history))


def tracker(history: Tensor) -> Tensor:
    """Move towards the column in which the ball is now."""
    _, column, paddle = read(history[:, -1])
    return (column - paddle - 0.5).sign()


def optimum(history: Tensor) -> Tensor:
    """Move to where the ball will be in the last row, if its direction can be seen; stay until then. Without gust."""
    row, column, paddle = read(history[:, -1])
    direction = column - read(history[:, -2])[1]
    for _ in range(N_STEPS):
        flying = row < N_STEPS
        direction = torch.where((column + direction < 0) | (column + direction > 9), -direction, direction)
        row, column = row + flying, column + direction * flying
    return torch.where(direction == 0, torch.zeros_like(column), (column - paddle - 0.5).sign())

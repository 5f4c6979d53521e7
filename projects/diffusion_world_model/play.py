"""Play the real game and its dream side by side, under the same keys: the arrows, and q to quit.

Arrow down, or no key at all, means to stay.

python play.py                  the agent's world of weights/catch.safetensors
python play.py --agent          the agent plays; without a terminal it prints one game as text
python play.py --gust           the windy game: the dream has gusts of its own
python play.py --guess          the dream begins with the first frame, which does not tell the ball's direction
python play.py --steps 1        sampling steps of a frame, 3 if nothing is said
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text
from torch import Generator, Tensor

from agent import ActorCritic, act
from diffusion_world_model import karras_sigmas, next_frame
from dream import World
from game import Catch
from keys import Keys
from train import LENGTH, STAY, load_weights

WEIGHTS = Path(__file__).resolve().parent / "weights"
GUST = 0.4  # the wind that the second world was trained in
VISIBLE = 0.3  # the least difference of a pixel that counts
TICK_S, END_TICKS = 0.35, 4  # between two frames; how long the end of a game stays
SHADES = " ░▒▓█"


class Beside:
    """A real game and its dream under the same actions; frame by frame.

    The dream begins anew with each game. It is shown the first move, unless it has to `guess` the ball's direction.
    """

    real: Tensor  # the last frames, (1, 4, 12, 12)
    dreamed: Tensor
    past: Tensor  # the actions between them, (1, 3)
    first: Tensor  # the frame that begins the next game
    n_moves: int
    ended: bool
    reward: float
    said: tuple[float, bool]  # the dream's reward and end

    def __init__(
        self, world: World, *, gust: float = 0.0, n_steps: int = 3, guess: bool = False, seed: int = 0
    ) -> None:
        self.world, self.sigmas, self.guess = world, karras_sigmas(n_steps), guess
        self.game, self.generator = Catch(gust=gust), Generator().manual_seed(seed)
        self.n_dreamed = self.n_wrong = 0
        self._begin(torch.tensor(self.game.reset(seed=seed)[0]))

    def step(self, action: int) -> None:
        """Move both; after the end of a game begin the next one instead."""
        if self.ended:
            self._begin(self.first)
            return
        shown, reward, ended, _, infos = self.game.step(np.array([action]))
        self.first, self.ended, self.reward = torch.tensor(shown), bool(ended[0]), float(reward[0])
        frame, taken = torch.tensor(infos.get("final_obs", shown)), torch.tensor([action])
        actions, following = torch.cat([self.past, taken[:, None]], dim=1), frame
        if self.guess or self.n_moves:
            following = next_frame(
                self.world.denoiser, self.dreamed, actions, self.sigmas, generator=self.generator
            )
            self.n_dreamed += 1
            self.n_wrong += bool(((frame - following).abs() >= VISIBLE).any())
        with torch.no_grad():
            rewards, ends = self.world.outcome(self.dreamed[:, -1], taken, following)
        self.said = int(rewards.argmax()) - 1.0, bool(ends.argmax())
        self.real = torch.cat([self.real[:, 1:], frame[:, None]], dim=1)
        self.dreamed = torch.cat([self.dreamed[:, 1:], following[:, None]], dim=1)
        self.past, self.n_moves = actions[:, 1:], self.n_moves + 1

    def _begin(self, first: Tensor) -> None:
        self.real = self.dreamed = first[:, None].expand(-1, LENGTH, -1, -1)
        self.past = torch.full((1, LENGTH - 1), STAY)
        self.n_moves, self.ended, self.reward, self.said = 0, False, 0.0, (0.0, False)


def draw(frame: Tensor) -> str:
    """Return a frame (12, 12) as text, two characters per pixel."""
    levels = ((frame.clamp(-1, 1) + 1) / 2 * (len(SHADES) - 1)).round().long()
    return "\n".join("".join(SHADES[level] * 2 for level in row) for row in levels.tolist())


def view(beside: Beside) -> Group:
    """Return what the terminal shows."""
    frames = (("real game", beside.real), ("dream", beside.dreamed))
    panels = [Panel(Text(draw(history[0, -1])), title=title, expand=False) for title, history in frames]
    line = f"move {beside.n_moves}, frames that differ: {beside.n_wrong} of {beside.n_dreamed}"
    if beside.ended:
        reward, ended = beside.said
        line += (
            f"; reward {beside.reward:+.0f}, the dream says {reward:+.0f}{'' if ended else ' and goes on'}"
        )
    return Group(Columns(panels), Text(line))


def play(beside: Beside, agent: ActorCritic | None, console: Console) -> None:
    """Play in the terminal until q is pressed; without an agent a tick without a key is "stay"."""
    with Keys() as keys, Live(view(beside), console=console, auto_refresh=False) as live:
        while (key := keys.wait(TICK_S * (END_TICKS if beside.ended else 1))) != "q":
            action = {"left": 0, "right": 2}.get(key, STAY)
            beside.step(action if agent is None else int(act(agent, beside.real)))
            live.update(view(beside), refresh=True)


def main(arguments: list[str] | None = None) -> None:
    """Play."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agent", action="store_true", help="the agent plays")
    parser.add_argument("--gust", action="store_true", help="the windy game")
    parser.add_argument("--guess", action="store_true", help="do not show the dream the first move")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="sampling steps (default: 3)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if not has_terminal and not options.agent:
        parser.error("no terminal for the arrow keys; --agent plays without one")
    world, agent = load_weights(WEIGHTS / ("gust.safetensors" if options.gust else "catch.safetensors"))
    beside = Beside(world, gust=GUST if options.gust else 0.0, n_steps=options.steps, guess=options.guess)
    console = Console()
    if has_terminal:
        play(beside, agent if options.agent else None, console)
        return
    while not beside.ended:
        beside.step(int(act(agent, beside.real)))
        console.print(view(beside))


if __name__ == "__main__":
    main()

"""Episodes of the real game that no graded function made, and a world whose frames say which they are."""

import numpy as np
import torch

from game import Catch


def seeded(seed=0):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def wake(module, seed=0, scale=0.3):
    """Give every parameter a random value: layers that start at zero would hide the rest."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def played(n, *, gust=0.0, seed=0, steps=None):
    """Columns of a Replay: frames (n, 13, 12, 12), actions (n, 12), rewards (n, 9), ends (n, 9); `steps(n, t)` acts."""
    game, rng = Catch(n, gust=gust), np.random.default_rng(seed)
    first, _ = game.reset(seed=seed)
    frames, actions = [first] * 4, [np.ones(n, dtype=np.int64)] * 3
    rewards, ends = [], []
    for t in range(9):
        action = rng.integers(3, size=n) if steps is None else steps(n, t)
        frame, reward, ended, _, infos = game.step(action)
        frames.append(infos["final_obs"] if t == 8 else frame)
        actions.append(action)
        rewards.append(reward)
        ends.append(ended)
    columns = (np.stack(c, axis=1) for c in (frames, actions, rewards, ends))
    return tuple(torch.tensor(c).float() if c.dtype == np.float64 else torch.tensor(c) for c in columns)


def numbered(n=5):
    """Columns of a Replay in which each frame is 100·episode + place, each action 1000·episode + place, each reward likewise."""
    who, place = torch.arange(n)[:, None], torch.arange(13)
    frames = (100.0 * who + place)[:, :, None, None].expand(n, 13, 12, 12).clone()
    rewards = 100.0 * who + torch.arange(9)
    ends = (torch.arange(9) == 8).expand(n, 9).clone()
    return frames, 1000 * who + torch.arange(12), rewards, ends


def drawn(ball, paddle):
    """Draw one frame pixel by pixel: ball (row, column) and the paddle's left column, 0..9."""
    frame = -0.5 * torch.ones(12, 12)
    for row in range(10):
        for column in range(10):
            frame[row + 1, column + 1] = -1.0
    for column in (paddle, paddle + 1):
        frame[10, column + 1] = 0.5
    frame[ball[0] + 1, ball[1] + 1] = 1.0
    return frame

"""Episodes of the real game that no graded function made, and tokenizers whose answers are known."""

import numpy as np
import torch
from torch import nn

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


def played(n, *, gust=0.0, text=1, seed=0, steps=None):
    """Columns of a Replay: text (n,), frames (n, 10, 12, 12), actions, rewards, ends (n, 9); `steps(n, t)` acts."""
    game, rng = Catch(n, gust=gust), np.random.default_rng(seed)
    frames, actions, rewards, ends = [game.reset(seed=seed)[0]], [], [], []
    for t in range(9):
        action = rng.integers(3, size=n) if steps is None else steps(n, t)
        frame, reward, ended, _, infos = game.step(action)
        frames.append(infos["final_obs"] if t == 8 else frame)
        actions.append(action)
        rewards.append(reward)
        ends.append(ended)
    columns = (torch.tensor(np.stack(c, axis=1)) for c in (frames, actions, rewards, ends))
    frames, actions, rewards, ends = columns
    return torch.full((n,), text), frames, actions, rewards.float(), ends


def numbered(n=5):
    """Columns of a Replay in which each frame is 100·episode + place, each reward likewise; texts and actions are unequal."""
    who, place = torch.arange(n)[:, None], torch.arange(10)
    frames = (100.0 * who + place)[:, :, None, None].expand(n, 10, 12, 12).clone()
    actions = (who + torch.tensor([0, 1, 0, 2, 1, 2, 0, 1, 2])) % 3  # no two in a row are alike
    ends = (torch.arange(9) == 8).expand(n, 9).clone()
    return 1 + torch.arange(n) % 2, frames, actions, 100.0 * who + torch.arange(9), ends


def drawn(ball, paddle):
    """Draw one frame pixel by pixel: ball (row, column) and the paddle's left column, 0..9."""
    frame = -0.5 * torch.ones(12, 12)
    frame[1:11, 1:11] = -1.0
    for column in (paddle, paddle + 1):
        frame[10, column + 1] = 0.5
    frame[ball[0] + 1, ball[1] + 1] = 1.0
    return frame


class Shrinking(nn.Module):
    """Stands for a tokenizer that sees a frame of one grey level g as nine tokens g, and tokens as a frame of half their mean."""

    def __init__(self):
        super().__init__()
        self.encoded, self.decoded = [], []

    def encode(self, frames):
        """Keep what is asked; (..., 12, 12) -> (..., 9)."""
        self.encoded.append(frames.clone())
        return frames[..., 0, 0, None].round().long().expand(*frames.shape[:-2], 9).clone()

    def decode(self, tokens):
        """Keep what is asked; (..., 9) -> (..., 12, 12)."""
        self.decoded.append(tokens.clone())
        level = tokens.float().mean(-1) / 2
        return level[..., None, None].expand(*level.shape, 12, 12).clone()

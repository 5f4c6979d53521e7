"""Networks and worlds whose every answer is known, and which remember what they were asked."""

import torch
from oracles import DOUBLE, bytes_of, level, normal, preconditioning, seeded, sigma_of, to_bytes
from torch import nn

from dream import World


def _check(scaled, c_noise, history, actions):
    """What any denoiser may expect of its caller."""
    n = len(scaled)
    assert scaled.shape == (n, *history.shape[2:]), (
        f"the network gets a frame of shape {tuple(scaled.shape)}, the history has {tuple(history.shape)}"
    )
    assert isinstance(c_noise, torch.Tensor), (
        f"the network gets a {type(c_noise).__name__} for c_noise, not a tensor"
    )
    assert c_noise.shape == (n,), (
        f"the network gets c_noise of shape {tuple(c_noise.shape)}, expected ({n},): one per frame"
    )
    assert actions.shape == history.shape[:2], (
        f"the network gets actions {tuple(actions.shape)} with a history {tuple(history.shape)}: one action for each frame"
    )
    assert actions.dtype == torch.int64, f"the network gets actions of dtype {actions.dtype}, not int64"
    assert scaled.dtype == history.dtype == torch.float32, (
        f"the network gets frames of dtype {scaled.dtype} and {history.dtype}, not float32"
    )


def _wide(scaled, c_noise):
    """σ, x and the scales as (B, 1, 1), float64, of what a network was asked."""
    sigma = sigma_of(c_noise)
    c_in, c_skip, c_out, _ = (c.reshape(-1, 1, 1) for c in preconditioning(sigma))
    return sigma, scaled.detach().double() / c_in, c_skip, c_out


class Exact:
    """F of a denoiser whose D is known: ``decide(x, sigma, history, actions)``, rounded to bytes."""

    def __init__(self, decide):
        self.decide = decide
        self.states, self.sigmas, self.cleans, self.histories, self.actions = [], [], [], [], []

    def __call__(self, scaled, c_noise, history, actions):
        _check(scaled, c_noise, history, actions)
        sigma, x, c_skip, c_out = _wide(scaled, c_noise)
        self.states.append(x)
        self.sigmas.append(sigma)
        self.histories.append(history.detach().clone())
        self.actions.append(actions.clone())
        clean = to_bytes(self.decide(x, sigma.reshape(-1, 1, 1), history.detach().double(), actions))
        self.cleans.append(clean)
        return ((clean - c_skip * x) / c_out).float()


def labels(n_games, n_frames):
    """Actions that say which they are: 100·game + time, (n_games, n_frames)."""
    return 100 * torch.arange(n_games)[:, None] + torch.arange(n_frames)


class Watched:
    """F = a·(c_in·x) + b·(the past, the newest frame the most), with two parameters; remembers all."""

    def __init__(self, a=0.6, b=0.5):
        self.weights = torch.tensor([a, b], requires_grad=True)
        self.calls = []

    def __call__(self, scaled, c_noise, history, actions):
        _check(scaled, c_noise, history, actions)
        ramp = torch.arange(1.0, history.shape[1] + 1)
        past = torch.einsum("blhw,l->bhw", history, ramp / ramp.sum())
        output = self.weights[0] * scaled + self.weights[1] * past
        asked = (scaled, c_noise, history, actions, output, past)
        self.calls.append(tuple(x.detach().clone() for x in asked))
        return output

    def table(self, n_games, n):
        """What was asked for each game and step, by the labels of the newest actions: columns (n_games, n, ...)."""
        assert self.calls, "the network is not asked at all"
        scaled, c_noise, histories, actions, outputs, pasts = map(torch.cat, zip(*self.calls, strict=True))
        n_past = actions.shape[1]
        game, step = actions[:, -1] // 100, actions[:, -1] % 100 - (n_past - 1)
        assert ((0 <= step) & (step < n)).all(), (
            "the newest action that the network gets is not the one at the newest frame of the history"
        )
        sigma, x, c_skip, c_out = _wide(scaled, c_noise)
        rows = dict(
            sigma=sigma, x=x, histories=histories, outputs=outputs.double(), scaled=scaled.double(), pasts=pasts.double(),
            c_skip=c_skip, c_out=c_out,
        )  # fmt: skip
        rows["clean"] = c_skip * x + c_out * rows["outputs"]  # D before it is rounded
        columns = {}
        for name, row in rows.items():
            columns[name] = torch.zeros(n_games, n, *row.shape[1:], dtype=row.dtype)
            columns[name][game, step] = row
        columns["asked"] = torch.zeros(n_games, n, dtype=torch.bool)
        columns["asked"][game, step] = True
        return columns


# --- a world that counts ----------------------------------------------------------------------------------------------

N_PAST, N_ACTIONS = 3, 3
LOUD = 200.0  # of logits: what has probability 1, and exp(200) is more than float32 holds


def action_code(actions):
    """The last N_PAST actions as one number below 27: the newest counts 1, the oldest 9."""
    return (actions * torch.tensor([9, 3, 1])).sum(-1)


def past_code(history):
    """What the frames' clocks were, in order, as one number below 256."""
    return (bytes_of(history[..., 0, 1]) * torch.tensor([1, 3, 7])).sum(-1) % 256


def counted(x, sigma, history, actions):
    """The next frame, 2 × 3: who I am, my clock plus one, the newest action; the actions, the past, how bright I am."""
    newest = history[:, -1]
    frame = newest.clone()
    frame[:, 0, 1] = level((bytes_of(newest[:, 0, 1]) + 1) % 256)
    frame[:, 0, 2] = level(100.0 * actions[:, -1])
    frame[:, 1, 0] = level(9.0 * action_code(actions))
    frame[:, 1, 1] = level(past_code(history))
    return frame


def outcome_of(frame, action, following):
    """Reward in -1, 0, 1 and end, as the counting world wants them: all three arguments count."""
    before, after = bytes_of(frame[:, 0, 1]), bytes_of(following[:, 0, 1])
    who = bytes_of(following[:, 0, 0])
    reward = (before + 2 * action + bytes_of(following[:, 1, 1]) + who) % 3 - 1
    return reward, (2 * after + 3 * who) % 5 == 0


class Counting:
    """A world of which every frame, reward and end is known; `outcomes` remembers what the second network was asked."""

    def __init__(self):
        self.denoiser, self.outcomes = Exact(counted), []

    def outcome(self, frame, action, following):
        n = len(following)
        assert frame.shape == following.shape == (n, 2, 3), (
            f"world.outcome gets frames of shapes {tuple(frame.shape)} and {tuple(following.shape)}, expected ({n}, 2, 3)"
        )
        assert action.shape == (n,), (
            f"world.outcome gets actions of shape {tuple(action.shape)}, expected ({n},)"
        )
        self.outcomes.append((frame.clone(), action.clone(), following.clone()))
        reward, end = outcome_of(frame, action, following)
        reward_logits = LOUD * nn.functional.one_hot(reward + 1, 3).float()
        return reward_logits, LOUD * nn.functional.one_hot(end.long(), 2).float()

    @property
    def world(self):
        return World(self.denoiser, self.outcome)


class Wrapped(nn.Module):
    """A network with a parameter that changes nothing of its answers, but would catch a gradient."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight = inner, nn.Parameter(torch.ones(()))

    def forward(self, *asked):
        answer = self.inner(*asked)
        return tuple(self.weight * x for x in answer) if isinstance(answer, tuple) else self.weight * answer


class Chancy:
    """A world of grey frames whose rewards and ends are drawn with the given probabilities, whatever is done."""

    def __init__(self, rewards=(0.2, 0.5, 0.3), ends=(0.7, 0.3)):
        self.rewards, self.ends = torch.tensor(rewards).log(), torch.tensor(ends).log()
        self.denoiser = Exact(lambda x, sigma, history, actions: torch.zeros_like(x))

    def outcome(self, frame, action, following):
        return self.rewards.expand(len(action), 3), self.ends.expand(len(action), 2)

    @property
    def world(self):
        return World(self.denoiser, self.outcome)


class Starts:
    """Hands out beginnings, each another one: the frames say who they are and when; `n_handed` counts them."""

    def __init__(self):
        self.n_handed = 0

    def __call__(self, n):
        assert isinstance(n, int), f"start is called with {n!r}: it wants a number of dreams, an int"
        if n == 0:
            return torch.zeros(0, N_PAST, 2, 3), torch.zeros(0, N_PAST - 1, dtype=torch.int64)
        first, self.n_handed = self.n_handed, self.n_handed + n
        assert self.n_handed < 256, (
            f"start was asked for {self.n_handed} beginnings: far more than there are ends"
        )
        histories, actions = zip(*(self.beginning(k) for k in range(first, self.n_handed)), strict=True)
        return torch.stack(histories), torch.stack(actions)

    @staticmethod
    def beginning(k):
        """The k-th beginning: a history and the actions between its frames."""
        generator = seeded(1000 + k)
        history = level(torch.randint(0, 256, (N_PAST, 2, 3), generator=generator).float())
        history[:, 0, 0] = level(k)
        history[:, 0, 1] = level(torch.arange(3.0) + 5 * k % 100)
        return history, torch.randint(0, N_ACTIONS, (N_PAST - 1,), generator=generator)


class Teller(nn.Module):
    """A policy whose logits and value depend on every pixel of the history; it has parameters."""

    def __init__(self, *, scale=0.5, n_past=N_PAST, pixels=6):
        super().__init__()
        generator = seeded(7)
        self.logits = nn.Parameter(normal(n_past * pixels, N_ACTIONS, generator=generator, scale=scale))
        self.value = nn.Parameter(normal(n_past * pixels, generator=generator))
        self.seen = []

    def forward(self, history):
        flat = history.flatten(1)
        self.seen.append(history.detach().clone())
        return flat @ self.logits, flat @ self.value


class Constant(nn.Module):
    """A policy that acts with given probabilities whatever it sees."""

    def __init__(self, probabilities=(0.2, 0.3, 0.5)):
        super().__init__()
        self.log_p = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, history):
        return self.log_p.expand(len(history), -1), history.mean((1, 2, 3))


def grey_starts(n):
    """Beginnings of grey frames, 1 × 1."""
    return torch.zeros(n, 2, 1, 1), torch.zeros(n, 1, dtype=torch.int64)


# --- the same dream, dreamt again by hand -----------------------------------------------------------------------------


def replay(dream, starts, wrong=None):
    """What the counting world does when the dream's actions are taken: all columns but actions; `wrong` makes one mistake.

    Where the dream says that it ended, it begins anew. Which beginning that is, is read off the dream's own next history,
    if it shows one that was not used before.
    """
    n_steps, n_dreams = dream.actions.shape
    unused = list(range(starts.n_handed))
    first = bytes_of(dream.histories[0, :, -1, 0, 0]).tolist()
    begun = [unused.pop(unused.index(k)) if k in unused else unused.pop(0) for k in first]
    state = [starts.beginning(k) for k in begun]
    rows = {name: [] for name in ("histories", "following", "rewards", "ends", "past")}
    for t in range(n_steps):
        row = {name: [] for name in rows}
        for b in range(n_dreams):
            history, past = state[b]
            actions = torch.cat([past, dream.actions[t, b][None]])
            if wrong == "action late":
                actions = torch.cat([past[:1], past])
            if wrong == "newest action first":
                actions = actions.flip(0)
            shown = history.flip(0) if wrong == "newest first" else history
            if wrong == "late history":
                shown = torch.cat([history[:1], history[:-1]])
            frame = counted(None, None, shown[None].double(), actions[None])[0].float()
            following = torch.cat([history[1:], frame[None]])
            reward, end = outcome_of(history[None, -1], dream.actions[t, b][None], frame[None])
            for name, value in zip(rows, (history, following, reward[0].float(), end[0], past), strict=True):
                row[name].append(value)
            state[b] = following, actions[1:]
            if dream.ends[t, b]:
                shows = int(bytes_of(dream.histories[t + 1, b, -1, 0, 0])) if t + 1 < n_steps else -1
                k = unused.pop(unused.index(shows)) if shows in unused else (unused or [0]).pop(0)
                beginning = starts.beginning(k)
                state[b] = (
                    beginning[0],
                    actions[1:] if wrong == "refilled in the history only" else beginning[1],
                )
        for name, values in row.items():
            rows[name].append(torch.stack(values))
    return {name: torch.stack(values) for name, values in rows.items()}


__all__ = [
    "Chancy", "Constant", "Counting", "DOUBLE", "Exact", "LOUD", "N_ACTIONS", "N_PAST", "Starts", "Teller", "Watched", "Wrapped",
    "counted", "grey_starts", "labels", "outcome_of", "replay",
]  # fmt: skip

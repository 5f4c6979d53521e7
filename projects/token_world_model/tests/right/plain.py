"""Another right answer, in loops: pairs turned one by one, scores key by key, parameters without nn.Sequential, the image written in place."""

import torch
from torch import nn

from world import PLAIN, Cache, Dream, Output


def interleave(text, images, actions, vocabulary):
    n_codes, n_image, n_texts, n_actions = vocabulary
    games, steps = images.shape[0], images.shape[1]
    short = steps - actions.shape[1]
    fits = (
        images.shape[2] == n_image
        and tuple(text.shape) == (games,)
        and actions.shape[0] == games
        and short in (0, 1)
    )
    if not fits:
        raise ValueError("text (B,), images (B, T, N) and actions (B, T) or (B, T - 1) are asked for")
    known = [(text, n_texts), (images, n_codes), (actions, n_actions)]
    if not all(bool(((0 <= x) & (x < size)).all()) for x, size in known):
        raise ValueError("a token that the vocabulary does not have")
    row = torch.full((games, steps * (n_image + 2)), -1, dtype=torch.int64)
    for t in range(steps):
        at = t * (n_image + 2)
        row[:, at] = text + n_codes
        for i in range(n_image):
            row[:, at + 1 + i] = images[:, t, i]
        if t < actions.shape[1]:
            row[:, at + n_image + 1] = actions[:, t] + n_texts + n_codes
    return row[:, :-1] if short else row


def rotate(x, positions):
    half = x.shape[-1] // 2
    columns = [None] * (2 * half)
    for i in range(half):
        angle = (positions.double() * 100.0 ** (-2 * i / (2 * half))).to(x.dtype)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        a, b = x[..., i], x[..., i + half]
        columns[i] = a * cosine - b * sine
        columns[i + half] = b * cosine + a * sine
    return torch.stack(columns, -1)


class CausalSelfAttention(nn.Module):
    def __init__(self, d, n_heads, window):
        super().__init__()
        self.n_heads = n_heads
        self.window = window
        self.qkv = nn.Linear(d, d * 3)
        self.out = nn.Linear(d, d)

    def forward(self, x, past=None, position=0):
        B, T, d = x.shape
        h = d // self.n_heads
        all_three = self.qkv(x)
        q = all_three[:, :, 0:d].view(B, T, self.n_heads, h).transpose(1, 2)
        k = all_three[:, :, d : 2 * d].view(B, T, self.n_heads, h).transpose(1, 2)
        v = all_three[:, :, 2 * d :].view(B, T, self.n_heads, h).transpose(1, 2)
        here = torch.arange(T) + position
        q = rotate(q, here)
        k = rotate(k, here)
        if past is not None:
            k = torch.cat((past[0], k), 2)
            v = torch.cat((past[1], v), 2)
        n_past = k.shape[2] - T
        rows = []
        for t in range(T):
            last = n_past + t + 1
            first = max(last - self.window, 0)
            scores = (q[:, :, t, None] * k[:, :, first:last]).sum(-1) * h**-0.5
            weights = torch.softmax(scores, -1)
            rows.append((weights[..., None] * v[:, :, first:last]).sum(2).flatten(1))
        n = min(self.window, k.shape[2])
        return self.out(torch.stack(rows, 1)), (k[:, :, k.shape[2] - n :], v[:, :, v.shape[2] - n :])


class TokenWorld(nn.Module):
    def __init__(self, vocabulary, *, d=96, n_heads=4, n_layers=3, window=44):
        super().__init__()
        self.vocabulary = vocabulary
        self.what = nn.Embedding(vocabulary.size, d)
        self.where = nn.Embedding(vocabulary.step, d)
        self.n_layers = n_layers
        for i in range(n_layers):
            self.add_module(f"norm_a{i}", nn.LayerNorm(d))
            self.add_module(f"attention{i}", CausalSelfAttention(d, n_heads, window))
            self.add_module(f"norm_b{i}", nn.LayerNorm(d))
            self.add_module(f"one{i}", nn.Linear(d, 4 * d))
            self.add_module(f"two{i}", nn.Linear(4 * d, d))
        self.last = nn.LayerNorm(d)
        self.to_image = nn.Linear(d, vocabulary.n_codes)
        self.to_reward = nn.Linear(d, 3)
        self.to_end = nn.Linear(d, 2)

    def forward(self, tokens, cache=None):
        position = 0
        if cache is not None:
            position = cache.position
        places = [(position + i) % self.vocabulary.step for i in range(tokens.shape[1])]
        x = self.what(tokens) + self.where(torch.tensor(places))
        layers = ()
        for i in range(self.n_layers):
            past = None if cache is None else cache.layers[i]
            y, kept = getattr(self, f"attention{i}")(getattr(self, f"norm_a{i}")(x), past, position)
            x = x + y
            z = torch.relu_(getattr(self, f"one{i}")(getattr(self, f"norm_b{i}")(x)))
            x = getattr(self, f"two{i}")(z).add_(x)
            layers = (*layers, kept)
        x = self.last(x)
        return Output(self.to_image(x), self.to_reward(x), self.to_end(x)), Cache(
            layers, position + len(places)
        )


def world_loss(world, episodes, *, drop_text=0.1, generator=None):
    text = episodes.text.clone()
    for b in range(len(text)):
        if torch.rand((), generator=generator) < drop_text:
            text[b] = 0
    tokens = interleave(text, episodes.images, episodes.actions, world.vocabulary)
    said, _ = world(tokens)
    step = world.vocabulary.step
    image = reward = end = 0.0
    n_tokens = n_actions = 0
    log_image, log_reward, log_end = (torch.log_softmax(logits, 2) for logits in said)
    for i in range(tokens.shape[1]):
        place, t = i % step, i // step
        if place < step - 2:  # an image token comes next
            image = image - log_image[:, i].gather(1, tokens[:, i + 1 : i + 2]).sum()
            n_tokens += len(text)
        if place == step - 1:
            classes = torch.sign(episodes.rewards[:, t]).long() + 1
            reward = reward - log_reward[:, i].gather(1, classes[:, None]).sum()
            end = end - log_end[:, i].gather(1, episodes.ends[:, t].long()[:, None]).sum()
            n_actions += len(text)
    return image / n_tokens + reward / n_actions + end / n_actions


def guide(conditional, unconditional, guidance):
    return conditional + (guidance - 1) * (conditional - unconditional)


def top_k(logits, k):
    if k not in range(1, logits.shape[-1] + 1):
        raise ValueError("k is too small or too large")
    rest = logits.clone()
    kept = torch.zeros_like(logits, dtype=torch.bool)
    for _ in range(k):
        best = rest.masked_fill(kept, -torch.inf).argmax(-1, keepdim=True)
        if bool(kept.gather(-1, best).any()):  # all that is left is -inf
            best = torch.where(kept.gather(-1, best), (~kept).long().argmax(-1, keepdim=True), best)
        kept = kept | torch.zeros_like(kept).scatter(-1, best, True)
    return logits.masked_fill(~kept, -torch.inf)


def draw(logits, sampling=PLAIN, *, generator=None):
    guidance, temperature, k = sampling
    if temperature < 0:
        raise ValueError("no negative temperature")
    if temperature == 0:
        return logits.max(-1).indices
    if k is not None:
        logits = top_k(logits, k)
    p = torch.softmax((logits - logits.max(-1, keepdim=True).values) / temperature, -1)
    edges = p.double().cumsum(-1)
    edges = edges / edges[:, -1:]
    u = torch.rand(len(p), dtype=torch.float64, generator=generator)
    return torch.searchsorted(edges, u[:, None], right=True)[:, 0]


@torch.no_grad()
def next_frame(world, text, actions, cache, sampling=PLAIN, *, generator=None):
    v = world.vocabulary
    B = len(text)
    mixed = sampling.guidance != 1
    a, t = actions[:, None] + v.n_codes + v.n_texts, text[:, None] + v.n_codes
    first = torch.cat((a, t), 1)
    if mixed:
        first = torch.cat((first, torch.cat((a, torch.full_like(t, v.n_codes)), 1)), 0)
    said, cache = world(first, cache)
    reward, end = said.reward[0:B, 0], said.end[0:B, 0]
    image = torch.zeros((B, v.n_image), dtype=torch.int64)
    for i in range(v.n_image):
        here = said.image[:, -1]
        here = guide(here[:B], here[B:], sampling.guidance) if mixed else here
        image[:, i] = draw(here, sampling, generator=generator)
        both = torch.cat((image[:, i : i + 1],) * (2 if mixed else 1), 0)
        said, cache = world(both, cache)
    return image, reward, end, cache


@torch.no_grad()
def imagine(world, policy, text, images, actions, *, horizon, sampling=PLAIN, generator=None):
    if horizon <= 0:
        raise ValueError("the horizon is at least 1")
    L, B = images.shape[1], images.shape[0]
    whole = torch.zeros((B, L + horizon, images.shape[2]), dtype=torch.int64)
    whole[:, :L] = images
    starts = [interleave(text, images, actions, world.vocabulary)]
    if sampling.guidance != 1:
        starts.append(interleave(torch.zeros_like(text), images, actions, world.vocabulary))
    cache = world(torch.cat(starts))[1]
    action_row, end_row = torch.zeros((2, horizon, B), dtype=torch.int64)
    log_prob, value, next_value, reward_row = torch.zeros((4, horizon, B))
    for t in range(horizon):
        logits, value[t] = policy(whole[:, : L + t])
        a = draw(logits, generator=generator)
        action_row[t] = a
        log_prob[t] = (logits - logits.logsumexp(1, keepdim=True)).gather(1, a[:, None])[:, 0]
        whole[:, L + t], reward, end, cache = next_frame(world, text, a, cache, sampling, generator=generator)
        reward_row[t] = draw(reward, generator=generator) - 1
        end_row[t] = draw(end, generator=generator)
        next_value[t] = policy(whole[:, : L + t + 1])[1]
    before = torch.cat((torch.zeros((1, B), dtype=torch.int64), end_row.cumsum(0)[:-1]))
    return Dream(whole, action_row, log_prob, value, next_value, reward_row, end_row == 1, before == 0)

"""The shortest answer."""

import torch
from torch import nn
from torch.nn import functional as F

from world import PLAIN, Cache, Dream, Output


def interleave(text, images, actions, vocabulary):
    (B, T, N), A = images.shape, actions.shape[1]
    if text.shape != (B,) or actions.shape[0] != B or A not in (T - 1, T) or N != vocabulary.n_image:
        raise ValueError("shapes")
    for x, n in ((text, vocabulary.n_texts), (images, vocabulary.n_codes), (actions, vocabulary.n_actions)):
        if x.numel() and (x.min() < 0 or x.max() >= n):
            raise ValueError("unknown token")
    out = torch.zeros(B, T, vocabulary.step, dtype=torch.int64)
    out[:, :, 0] = text[:, None] + vocabulary.n_codes
    out[:, :, 1:-1] = images
    out[:, :A, -1] = actions + vocabulary.n_codes + vocabulary.n_texts
    return out.flatten(1)[:, : T * vocabulary.step - (T - A)]


def rotate(x, positions):
    n = x.shape[-1] // 2
    angle = positions[:, None] / 100 ** (torch.arange(n) / n)
    c, s = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return x * torch.cat([c, c], -1) + torch.cat([-x[..., n:], x[..., :n]], -1) * torch.cat([s, s], -1)


class CausalSelfAttention(nn.Module):
    def __init__(self, d, n_heads, window):
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.n_heads, self.window = n_heads, window

    def forward(self, x, past=None, position=0):
        B, T, d = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        at = torch.arange(position, position + T)
        q, k = rotate(q, at), rotate(k, at)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        key_at = torch.arange(position + T - k.shape[2], position + T)
        far = at[:, None] - key_at
        scores = (q @ k.mT / (d // self.n_heads) ** 0.5).masked_fill(
            (far < 0) | (far >= self.window), -torch.inf
        )
        y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(B, T, d)), (
            k[:, :, -self.window :],
            v[:, :, -self.window :],
        )


class Layer(nn.Module):
    def __init__(self, d, n_heads, window):
        super().__init__()
        self.ln1, self.ln2, self.attention = (
            nn.LayerNorm(d),
            nn.LayerNorm(d),
            CausalSelfAttention(d, n_heads, window),
        )
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x, past, position):
        y, past = self.attention(self.ln1(x), past, position)
        x = x + y
        return x + self.down(F.relu(self.up(self.ln2(x)))), past


class TokenWorld(nn.Module):
    def __init__(self, vocabulary, *, d=96, n_heads=4, n_layers=3, window=44):
        super().__init__()
        self.vocabulary = vocabulary
        self.wte, self.wpe, self.ln = (
            nn.Embedding(vocabulary.size, d),
            nn.Embedding(vocabulary.step, d),
            nn.LayerNorm(d),
        )
        self.blocks = nn.ModuleList(Layer(d, n_heads, window) for _ in range(n_layers))
        self.heads = nn.ModuleList(nn.Linear(d, n) for n in (vocabulary.n_codes, 3, 2))

    def forward(self, tokens, cache=None):
        start = cache.position if cache else 0
        x = self.wte(tokens) + self.wpe((start + torch.arange(tokens.shape[1])) % self.vocabulary.step)
        new = []
        for i, block in enumerate(self.blocks):
            x, past = block(x, cache.layers[i] if cache else None, start)
            new.append(past)
        return Output(*(head(self.ln(x)) for head in self.heads)), Cache(tuple(new), start + tokens.shape[1])


def world_loss(world, episodes, *, drop_text=0.1, generator=None):
    text, images, actions, rewards, ends = episodes
    v = world.vocabulary
    text = torch.where(torch.rand(len(text), generator=generator) < drop_text, 0, text)
    out, _ = world(interleave(text, images, actions, v))
    image = torch.stack(
        [out.image[:, t * v.step : t * v.step + v.n_image] for t in range(images.shape[1])], 1
    )
    reward, end = out.reward[:, v.step - 1 :: v.step], out.end[:, v.step - 1 :: v.step]
    return (
        F.cross_entropy(image.flatten(0, 2), images.flatten())
        + F.cross_entropy(reward.flatten(0, 1), rewards.sign().long().flatten() + 1)
        + F.cross_entropy(end.flatten(0, 1), ends.long().flatten())
    )


def guide(conditional, unconditional, guidance):
    return torch.lerp(unconditional, conditional, guidance)


def top_k(logits, k):
    if k < 1 or k > logits.shape[-1]:
        raise ValueError("k")
    out = torch.full_like(logits, float("-inf"))
    best = logits.topk(k).indices
    return out.scatter(-1, best, logits.gather(-1, best))


def draw(logits, sampling=PLAIN, *, generator=None):
    if sampling.temperature < 0:
        raise ValueError("temperature")
    if sampling.temperature == 0:
        return logits.argmax(-1)
    if sampling.k is not None:
        logits = top_k(logits, sampling.k)
    return torch.multinomial(F.softmax(logits / sampling.temperature, -1), 1, generator=generator).squeeze(1)


@torch.no_grad()
def next_frame(world, text, actions, cache, sampling=PLAIN, *, generator=None):
    v, B = world.vocabulary, len(text)
    if sampling.guidance != 1:
        text, actions = torch.cat([text, torch.zeros_like(text)]), actions.repeat(2)
    out, cache = world(torch.stack([v.n_codes + v.n_texts + actions, v.n_codes + text], 1), cache)
    reward, end, image = out.reward[:B, 0], out.end[:B, 0], []
    for _ in range(v.n_image):
        logits = out.image[:, -1]
        if sampling.guidance != 1:
            logits = guide(logits[:B], logits[B:], sampling.guidance)
        image.append(draw(logits, sampling, generator=generator))
        out, cache = world(image[-1].repeat(len(text) // B)[:, None], cache)
    return torch.stack(image, 1), reward, end, cache


@torch.no_grad()
def imagine(world, policy, text, images, actions, *, horizon, sampling=PLAIN, generator=None):
    if horizon < 1:
        raise ValueError("horizon")
    tokens = interleave(text, images, actions, world.vocabulary)
    if sampling.guidance != 1:
        tokens = torch.cat([tokens, interleave(0 * text, images, actions, world.vocabulary)])
    _, cache = world(tokens)
    alive, rows = torch.ones(len(text), dtype=torch.bool), []
    logits, value = policy(images)
    for _ in range(horizon):
        action = draw(logits, generator=generator)
        log_prob = torch.distributions.Categorical(logits=logits).log_prob(action)
        image, reward, end, cache = next_frame(world, text, action, cache, sampling, generator=generator)
        reward, end = draw(reward, generator=generator).float() - 1, draw(end, generator=generator).bool()
        images = torch.cat([images, image[:, None]], 1)
        logits, next_value = policy(images)
        rows.append((action, log_prob, value, next_value, reward, end, alive))
        alive, value = alive & ~end, next_value
    return Dream(images, *(torch.stack(column) for column in zip(*rows, strict=True)))

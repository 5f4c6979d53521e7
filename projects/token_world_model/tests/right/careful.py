"""A careful person's answer: everything is named and checked, heads one by one, the window by a band, draws by Gumbel noise."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from world import PLAIN, Cache, Dream, Output, Sampling


def _check_range(name, values, size):
    if values.numel() == 0:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= size:
        raise ValueError(f"{name} must lie in 0..{size - 1}, got {low}..{high}")


def interleave(text, images, actions, vocabulary):
    if images.ndim != 3 or text.ndim != 1 or actions.ndim != 2:
        raise ValueError(
            f"expected text (B,), images (B, T, N), actions (B, T), got {text.shape}, {images.shape}, {actions.shape}"
        )
    n_games, n_steps, n_image = images.shape
    if not (len(text) == len(actions) == n_games):
        raise ValueError("text, images and actions have different batch sizes")
    if n_image != vocabulary.n_image:
        raise ValueError(f"an image has {vocabulary.n_image} tokens, got {n_image}")
    if actions.shape[1] > n_steps or actions.shape[1] < n_steps - 1:
        raise ValueError(
            f"{n_steps} images go with {n_steps} or {n_steps - 1} actions, got {actions.shape[1]}"
        )
    _check_range("text", text, vocabulary.n_texts)
    _check_range("images", images, vocabulary.n_codes)
    _check_range("actions", actions, vocabulary.n_actions)
    first_text = vocabulary.n_codes
    first_action = first_text + vocabulary.n_texts
    pieces = []
    for step in range(n_steps):
        pieces.append((first_text + text).unsqueeze(1))
        pieces.append(images[:, step])
        if step < actions.shape[1]:
            pieces.append((first_action + actions[:, step]).unsqueeze(1))
    return torch.cat(pieces, dim=1)


def rotate(x, positions):
    d = x.size(-1)
    frequencies = torch.exp(
        -math.log(100.0) * 2.0 * torch.arange(d // 2, dtype=torch.float64, device=x.device) / d
    )
    angles = torch.outer(positions.to(torch.float64), frequencies)
    first, second = torch.chunk(x, 2, dim=-1)
    turned = torch.empty_like(x)
    cosine, sine = torch.cos(angles).to(x.dtype), torch.sin(angles).to(x.dtype)
    turned = torch.cat((cosine * first - sine * second, cosine * second + sine * first), dim=-1)
    return turned


class CausalSelfAttention(nn.Module):
    def __init__(self, d, n_heads, window):
        super().__init__()
        if d % n_heads:
            raise ValueError(f"d = {d} cannot be split into {n_heads} heads")
        self.d, self.n_heads, self.d_head, self.window = d, n_heads, d // n_heads, window
        self.qkv = nn.Linear(in_features=d, out_features=3 * d)
        self.out = nn.Linear(in_features=d, out_features=d)

    def forward(self, x, past=None, position=0):
        batch, length, _ = x.shape
        query, key, value = torch.split(self.qkv(x), self.d, dim=-1)

        def by_heads(tensor):
            return tensor.reshape(batch, length, self.n_heads, self.d_head).permute(0, 2, 1, 3)

        query, key, value = map(by_heads, (query, key, value))
        query_positions = torch.arange(position, position + length, device=x.device)
        key_positions = query_positions
        n_past = 0
        if past is not None:  # keys are kept as they were before the turn
            old_key, old_value = past
            n_past = old_key.size(2)
            if n_past > position:
                raise ValueError(f"a past of {n_past} positions cannot stand before position {position}")
            key = torch.cat((old_key, key), dim=2)
            value = torch.cat((old_value, value), dim=2)
            key_positions = torch.arange(position - n_past, position + length, device=x.device)
        turned_query, turned_key = rotate(query, query_positions), rotate(key, key_positions)
        distance = query_positions.unsqueeze(1) - key_positions.unsqueeze(0)
        mask = torch.zeros(length, n_past + length, dtype=x.dtype, device=x.device)
        mask[(distance < 0) | (distance > self.window - 1)] = -math.inf
        results = []
        for head in range(self.n_heads):
            scores = torch.matmul(turned_query[:, head], turned_key[:, head].transpose(-1, -2)) / math.sqrt(
                self.d_head
            )
            results.append(torch.matmul(F.softmax(scores + mask, dim=-1), value[:, head]))
        keep = max(0, key.size(2) - (self.window - 1))  # the next one sees itself and window - 1 more
        return self.out(torch.cat(results, dim=-1)), (key[:, :, keep:].clone(), value[:, :, keep:].clone())


class Mlp(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        return self.down(F.silu(self.up(x)))


class TokenWorld(nn.Module):
    def __init__(self, vocabulary, *, d=96, n_heads=4, n_layers=3, window=44):
        super().__init__()
        self.vocabulary, self.n_layers = vocabulary, n_layers
        self.token_table = nn.Embedding(vocabulary.size, d)
        self.place_table = nn.Embedding(vocabulary.step, d)
        self.attentions = nn.ModuleList(
            [CausalSelfAttention(d=d, n_heads=n_heads, window=window) for _ in range(n_layers)]
        )
        self.mlps = nn.ModuleList([Mlp(d) for _ in range(n_layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(2 * n_layers + 1)])
        self.image_head = nn.Linear(d, vocabulary.n_codes)
        self.reward_head = nn.Linear(d, 3)
        self.end_head = nn.Linear(d, 2)

    def forward(self, tokens, cache=None):
        if cache is None:
            cache = Cache(layers=(None,) * self.n_layers, position=0)
        length = tokens.size(1)
        place = torch.remainder(
            cache.position + torch.arange(length, device=tokens.device), self.vocabulary.step
        )
        x = self.token_table(tokens) + self.place_table(place).unsqueeze(0)
        pasts = []
        for i in range(self.n_layers):
            change, past = self.attentions[i](
                self.norms[2 * i](x), past=cache.layers[i], position=cache.position
            )
            pasts.append(past)
            x = x + change
            x = x + self.mlps[i](self.norms[2 * i + 1](x))
        x = self.norms[-1](x)
        output = Output(image=self.image_head(x), reward=self.reward_head(x), end=self.end_head(x))
        return output, Cache(layers=tuple(pasts), position=cache.position + length)


def world_loss(world, episodes, *, drop_text=0.1, generator=None):
    vocabulary = world.vocabulary
    keep = torch.bernoulli(torch.full((len(episodes.text),), 1.0 - drop_text), generator=generator).bool()
    text = torch.zeros_like(episodes.text)
    text[keep] = episodes.text[keep]
    tokens = interleave(text, episodes.images, episodes.actions, vocabulary)
    output, _ = world(tokens[:, :-1])  # nothing is asked of what follows the last token
    log_image = torch.log_softmax(output.image, dim=-1)
    n_games, n_steps, n_image = episodes.images.shape
    image_terms = []
    for step in range(n_steps):
        first = step * vocabulary.step
        said = log_image[:, first : first + n_image]
        image_terms.append(said.gather(-1, episodes.images[:, step].unsqueeze(-1)).squeeze(-1))
    image_loss = -torch.stack(image_terms).mean()
    at_action = torch.arange(n_steps - 1) * vocabulary.step + n_image + 1
    classes = torch.where(episodes.rewards > 0, 2, torch.where(episodes.rewards < 0, 0, 1))
    reward_loss = F.nll_loss(torch.log_softmax(output.reward[:, at_action], -1).permute(0, 2, 1), classes)
    end_loss = F.nll_loss(
        torch.log_softmax(output.end[:, at_action], -1).permute(0, 2, 1), episodes.ends.to(torch.int64)
    )
    return image_loss + reward_loss + end_loss


def guide(conditional, unconditional, guidance):
    return guidance * conditional + (1.0 - guidance) * unconditional


def top_k(logits, k):
    n = logits.size(-1)
    if not (1 <= k <= n):
        raise ValueError(f"k must be between 1 and {n}, got {k}")
    order = torch.argsort(logits, dim=-1, descending=True, stable=True)
    cut = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., k:], True)
    return torch.where(cut, torch.full_like(logits, -math.inf), logits)


def draw(logits, sampling=PLAIN, *, generator=None):
    if sampling.temperature < 0:
        raise ValueError(f"the temperature is negative: {sampling.temperature}")
    if sampling.k is not None:
        logits = top_k(logits, sampling.k)
    if sampling.temperature == 0:
        return torch.argmax(logits, dim=-1)
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
    return torch.argmax(logits.double() / sampling.temperature + gumbel, dim=-1)


def next_frame(world, text, actions, cache, sampling=PLAIN, *, generator=None):
    vocabulary = world.vocabulary
    n = text.size(0)
    guided = sampling.guidance != 1
    with torch.no_grad():
        if guided:
            text = torch.cat((text, torch.zeros_like(text)))
            actions = torch.cat((actions, actions))
        action_token = actions + (vocabulary.n_codes + vocabulary.n_texts)
        output, cache = world(action_token.unsqueeze(1), cache)
        reward, end = output.reward[:n, -1], output.end[:n, -1]
        output, cache = world((text + vocabulary.n_codes).unsqueeze(1), cache)
        image = torch.empty(n, vocabulary.n_image, dtype=torch.int64)
        for i in range(vocabulary.n_image):
            logits = output.image[:, -1]
            if guided:
                with_text, without_text = torch.chunk(logits, 2)
                logits = guide(with_text, without_text, sampling.guidance)
            image[:, i] = draw(logits, sampling, generator=generator)
            token = torch.cat((image[:, i], image[:, i])) if guided else image[:, i]
            output, cache = world(token.unsqueeze(1), cache)
    return image, reward, end, cache


def imagine(world, policy, text, images, actions, *, horizon, sampling=PLAIN, generator=None):
    if horizon < 1:
        raise ValueError(f"a dream has at least one step, got {horizon}")
    plain = Sampling()
    with torch.no_grad():
        tokens = interleave(text, images, actions, world.vocabulary)
        if sampling.guidance != 1:
            without = interleave(torch.zeros_like(text), images, actions, world.vocabulary)
            tokens = torch.cat((tokens, without))
        _, cache = world(tokens)
        columns = {
            name: [] for name in ("actions", "log_probs", "values", "next_values", "rewards", "ends", "alive")
        }
        ended = torch.zeros(len(text), dtype=torch.bool)
        frames = list(images.unbind(1))
        for _ in range(horizon):
            logits, values = policy(torch.stack(frames, dim=1))
            action = draw(logits, plain, generator=generator)
            log_probs = F.log_softmax(logits, dim=-1)[torch.arange(len(text)), action]
            frame, reward_logits, end_logits, cache = next_frame(
                world, text, action, cache, sampling, generator=generator
            )
            reward = draw(reward_logits, plain, generator=generator)
            end = draw(end_logits, plain, generator=generator) == 1
            frames.append(frame)
            _, next_values = policy(torch.stack(frames, dim=1))
            columns["actions"].append(action)
            columns["log_probs"].append(log_probs)
            columns["values"].append(values)
            columns["next_values"].append(next_values)
            columns["rewards"].append((reward - 1).to(torch.float32))
            columns["ends"].append(end)
            columns["alive"].append(~ended)
            ended = ended | end
        return Dream(
            images=torch.stack(frames, dim=1),
            **{name: torch.stack(column) for name, column in columns.items()},
        )

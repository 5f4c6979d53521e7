"""Answers worked out another way, in float64 and position by position; and functions that are lent: they use nothing that is graded."""

import math

import torch
from torch import nn

import token_world_model
from world import PLAIN, Vocabulary

DOUBLE = torch.float64
WORDS = Vocabulary(n_codes=7, n_image=4, n_texts=4, n_actions=5)  # all sizes differ; a step is 6 tokens


def seeded(seed=0):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape, generator, scale=1.0, dtype=torch.float32):
    """Return normal numbers."""
    return scale * torch.randn(shape, generator=generator, dtype=dtype)


def gradients(output, inputs):
    """Return the gradients of a scalar; zeros where it does not depend on an input."""
    if not output.requires_grad:
        raise AssertionError("the result is detached from its inputs: no gradient flows back")
    return torch.autograd.grad(output, inputs, allow_unused=True, materialize_grads=True)


def lend(monkeypatch, *names):
    """Let the graded module find these functions of this file under its own names."""
    for name in names:
        monkeypatch.setattr(token_world_model, name, globals()[name], raising=False)


def pieces(n, n_steps, generator, vocabulary=WORDS, *, last_action=True):
    """Random texts (no 0 among them), images, and actions."""
    text = torch.randint(1, vocabulary.n_texts, (n,), generator=generator)
    images = torch.randint(0, vocabulary.n_codes, (n, n_steps, vocabulary.n_image), generator=generator)
    shape = n, n_steps - (not last_action)
    return text, images, torch.randint(0, vocabulary.n_actions, shape, generator=generator)


# --- the sequence -----------------------------------------------------------------------------------------------------


def interleave(text, images, actions, vocabulary):
    """Token by token, in lists."""
    rows = []
    for b, of_game in enumerate(images.tolist()):
        row = []
        for t, image in enumerate(of_game):
            row += [vocabulary.n_codes + int(text[b]), *image]
            if t < actions.shape[1]:
                row.append(vocabulary.n_codes + vocabulary.n_texts + int(actions[b, t]))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int64)


def rotate(x, positions):
    """Pairs as complex numbers, turned one position after the other, in double precision."""
    half = x.shape[-1] // 2
    points = torch.complex(x[..., :half].double(), x[..., half:].double())
    turns = [
        [complex(math.cos(a), math.sin(a)) for i in range(half) for a in [p / 10 ** (4 * i / (2 * half))]]
        for p in positions.tolist()
    ]
    turned = points * torch.tensor(turns, dtype=torch.complex128)
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


# --- attention --------------------------------------------------------------------------------------------------------


def attend(x, qkv, out, n_heads, window, *, wrong=""):
    """Attention over a whole sequence (B, T, d), one query of one head at a time, float64; `wrong` makes one mistake."""
    (qkv_weight, qkv_bias), (out_weight, out_bias) = ([p.double() for p in pair] for pair in (qkv, out))
    _, length, d = x.shape
    d_head = d // n_heads
    parts = (x.double() @ qkv_weight.T + qkv_bias).split(d, dim=-1)
    positions = torch.arange(length)
    scale = {"no scale": 1.0, "scale of d": d**-0.5}.get(wrong, d_head**-0.5)
    heads = []
    for h in range(n_heads):
        chosen = (
            slice(h, None, n_heads) if wrong == "heads interleaved" else slice(h * d_head, (h + 1) * d_head)
        )
        q, k, v = (part[..., chosen] for part in parts)
        if wrong == "query and key exchanged":
            q, k = k, q
        if wrong == "key and value exchanged":
            k, v = v, k
        q, k = (q, k) if wrong == "no rotation" else (rotate(q, positions), rotate(k, positions))
        v = rotate(v, positions) if wrong == "values rotated" else v
        rows = []
        for t in range(length):
            first = max(0, t - window + 1)
            last = t + 1
            if wrong == "window too wide":
                first = max(0, t - window)
            if wrong == "window too narrow":
                first = min(t, max(0, t - window + 2))
            if wrong == "no window":
                first = 0
            if wrong == "sees ahead":
                last = length
            if wrong == "sees one ahead":
                last = t + 2
            if wrong == "not itself":
                last = max(t, first + 1)
            scores = torch.einsum("bd,bkd->bk", q[:, t], k[:, first:last]) * scale
            weights = (scores - scores.amax(1, keepdim=True)).exp()
            rows.append(torch.einsum("bk,bkd->bd", weights / weights.sum(1, keepdim=True), v[:, first:last]))
        heads.append(torch.stack(rows, dim=1))
    mixed = torch.cat(heads, dim=-1)
    if wrong == "heads put together interleaved":
        mixed = torch.stack(heads, dim=-1).flatten(2)
    if wrong == "heads and time mixed up":
        mixed = torch.stack(heads, dim=1).reshape(mixed.shape)
    return mixed if wrong == "no out" else mixed @ out_weight.T + out_bias


class CausalSelfAttention(nn.Module):
    """What is lent to TokenWorld: it keeps unrotated keys, looks up which positions may be seen, and remembers what it was asked."""

    def __init__(self, d, n_heads, window):
        super().__init__()
        self.n_heads, self.window = n_heads, window
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.asked, self.said = [], []

    def forward(self, x, past=None, position=0):
        assert x.ndim == 3, f"attention gets x of shape {tuple(x.shape)}, expected (B, T, d)"
        self.asked.append((x.detach().clone(), None if past is None else past[0].shape[2], int(position)))
        q, k, v = (
            p.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for p in self.qkv(x).split(x.shape[2], dim=2)
        )
        n_past = 0 if past is None else past[0].shape[2]
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        at = torch.arange(position, position + x.shape[1])
        seen = torch.arange(position - n_past, position + x.shape[1])
        scores = rotate(q, at) @ rotate(k, seen).mT / q.shape[-1] ** 0.5
        hidden = (seen > at[:, None]) | (seen <= at[:, None] - self.window)
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        result = self.out(mixed.transpose(1, 2).flatten(2))
        self.said.append(result.detach().clone())
        return result, (k[:, :, -self.window :], v[:, :, -self.window :])


def layer_norm(x):
    """LayerNorm as it begins, float64."""
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


# --- sampling ---------------------------------------------------------------------------------------------------------


def guide(conditional, unconditional, guidance):
    """The mixture of both."""
    return guidance * conditional + (1 - guidance) * unconditional


def top_k(logits, k):
    """By rank: what comes after the first k of a stable order is hidden. It refuses what the learner's own is to refuse."""
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k = {k} of {logits.shape[-1]} logits")
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return logits.masked_fill(order.argsort(dim=-1) >= k, -torch.inf)


def draw(logits, sampling=PLAIN, *, generator=None):
    """Inverse of the cumulative sum; at temperature 0 the greatest."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    kept = logits.double() if sampling.k is None else top_k(logits.double(), sampling.k)
    sums = (kept / sampling.temperature).softmax(dim=-1).cumsum(dim=-1)
    u = torch.rand(len(logits), 1, generator=generator, dtype=DOUBLE) * sums[:, -1:]
    return (sums <= u).sum(dim=-1).clamp(max=logits.shape[1] - 1)


@torch.no_grad()
def next_frame(world, text, actions, cache, sampling=PLAIN, *, generator=None):
    """Token by token; both halves as one batch, by index."""
    words, both = world.vocabulary, sampling.guidance != 1
    n = len(text)

    def read(column, cache):
        return world(column[:, None], cache)

    row = torch.arange(2 * n if both else n) % n
    with_text = torch.arange(len(row)) < n
    output, cache = read((actions + words.n_codes + words.n_texts)[row], cache)
    reward, end = output.reward[:n, 0], output.end[:n, 0]
    output, cache = read(text[row] * with_text + words.n_codes, cache)
    tokens = []
    for _ in range(words.n_image):
        said = output.image[:, 0]
        logits = guide(said[:n], said[n:], sampling.guidance) if both else said
        tokens.append(draw(logits, sampling, generator=generator))
        output, cache = read(tokens[-1][row], cache)
    return torch.stack(tokens, dim=1), reward, end, cache


def check_shares(got, probabilities, n, what, hint):
    """Each class as often as its probability says, to five standard errors and four draws; what has none never."""
    shares = torch.bincount(got, minlength=len(probabilities)).double() / n
    told = ", ".join(f"{share:.3f}" for share in shares.tolist())
    wanted = ", ".join(f"{p:.3f}" for p in probabilities.tolist())
    for share, p in zip(shares.tolist(), probabilities.tolist(), strict=True):
        bound = 5 * math.sqrt(p * (1 - p) / n) + (4 / n if p > 0 else 1e-9)
        assert abs(share - p) < bound, (
            f"{hint}\n{what} of {n} come with shares {told}; their probabilities are {wanted}"
        )

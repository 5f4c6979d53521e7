"""GAIA-1 in miniature: a frame is a few tokens, a transformer says which comes next, and an agent plays in what it says.

    text_1 image_1 action_1  text_2 image_2 action_2  …         one sequence; an image is N tokens, row by row
    loss   = -mean log p(image token | all before) - mean log p(reward | …) - mean log p(end | …)
    logits = logits without text + guidance·(logits with it - logits without)

The contract: world.py says what goes in and comes out. Texts (B,), images (B, T, N) and actions (B, T) are int64, counted from 0;
text 0 is no text. An action leads to the next step's image. Random numbers come from the `generator`, drawn on the CPU.
Sources: Hu et al. 2023 (GAIA-1), arXiv 2309.17080; reward and end: Micheli et al. 2023 (IRIS), arXiv 2209.00588.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from world import PLAIN, Cache, Dream, Episodes, Output, Past, Sampling, Vocabulary

__all__ = ["interleave", "rotate", "CausalSelfAttention", "TokenWorld", "world_loss", "guide", "top_k", "draw", "next_frame", "imagine"]  # fmt: skip


def interleave(text: Tensor, images: Tensor, actions: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Return the tokens of all steps in their order, (B, T·step), as integers of the vocabulary; the text stands in each step.

    `actions` is (B, T), or (B, T - 1): then the sequence ends with the last image. ValueError for other shapes, and for a text,
    code or action that the vocabulary does not have.
    """
    (n, n_steps, n_image), missing = images.shape, images.shape[1] - actions.shape[1]
    if text.shape != (n,) or len(actions) != n or missing not in (0, 1) or n_image != vocabulary.n_image:
        raise ValueError(f"shapes do not fit: {[tuple(x.shape) for x in (text, images, actions)]}")
    sizes = vocabulary.n_texts, vocabulary.n_codes, vocabulary.n_actions
    if any(((x < 0) | (x >= size)).any() for x, size in zip((text, images, actions), sizes, strict=True)):
        raise ValueError(f"texts, codes and actions must be below {sizes}, and not negative")
    texts = (text + vocabulary.n_codes)[:, None, None].expand(-1, n_steps, -1)
    actions = nn.functional.pad(actions, (0, missing))[:, :, None] + vocabulary.n_codes + vocabulary.n_texts
    return torch.cat([texts, images, actions], dim=2).flatten(1)[:, : n_steps * vocabulary.step - missing]


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Return x (..., T, d) with each pair (x_i, x_{i + d/2}) turned by the angle position·100^(-2i/d); positions is (T,).

    So the product of a query and a key depends on how far apart they are. RoPE, arXiv 2104.09864, has 10000; our windows are short.
    """
    half = x.shape[-1] // 2
    angles = positions[:, None] * 100 ** (-torch.arange(half, device=x.device) / half)
    cos, sin, (a, b) = angles.cos().to(x), angles.sin().to(x), x.split(half, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and the window - 1 positions before it, with rotated queries and keys.

    qkv : Linear(d, 3·d), queries, keys, values in this order, each the heads one after the other; out : Linear(d, d)
    """

    def __init__(self, d: int, n_heads: int, window: int) -> None:
        super().__init__()
        self.n_heads, self.window = n_heads, window
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Tensor, past: Past | None = None, position: int = 0) -> tuple[Tensor, Past]:
        """Return the result for x (B, T, d), in its shape, and what the next call needs as `past`: at most `window` positions.

        `past` is (keys, values), each (B, n_heads, P, d/n_heads), of the P positions before; `position` is that of the first of x,
        counted from the start of the sequence, however much of it is forgotten.
        """
        q, k, v = (p.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, dim=2))
        places = position + torch.arange(x.shape[1], device=x.device)
        q, k = rotate(q, places), rotate(k, places)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        distance = places[:, None] - torch.arange(k.shape[2], device=x.device) - places[-1] - 1 + k.shape[2]
        mask = (distance >= 0) & (distance < self.window)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2)), (k[:, :, -self.window :], v[:, :, -self.window :])


class TokenWorld(nn.Module):
    """A transformer over a game's tokens: nn.Embedding of token and place in the step, layers, nn.LayerNorm, three nn.Linear heads.

    A layer adds CausalSelfAttention(LayerNorm(x)) to x, then an MLP of LayerNorm(x) with 4·d hidden numbers. `vocabulary` is kept.
    """

    def __init__(self, vocabulary: Vocabulary, *, d: int = 96, n_heads: int = 4, n_layers: int = 3, window: int = 44) -> None:  # fmt: skip
        super().__init__()
        self.vocabulary, self.norm = vocabulary, nn.LayerNorm(d)
        self.embed, self.place = nn.Embedding(vocabulary.size, d), nn.Embedding(vocabulary.step, d)
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=0.02)  # as in GPT-2; from PyTorch's 1 it learns more slowly
        self.norms, self.attends, self.mlps = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for _ in range(n_layers):
            self.norms.append(nn.LayerNorm(d))
            self.attends.append(CausalSelfAttention(d, n_heads, window))
            mlp = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)
            self.mlps.append(nn.Sequential(*mlp))
        self.image, self.reward, self.end = (nn.Linear(d, n) for n in (vocabulary.n_codes, 3, 2))

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> tuple[Output, Cache]:
        """Return what the world says at each of the tokens (B, T), which go on where `cache` ends, and the new cache."""
        pasts, position = cache or ((None,) * len(self.mlps), 0)
        places = torch.arange(position, position + tokens.shape[1], device=tokens.device)
        x, kept = self.embed(tokens) + self.place(places % self.vocabulary.step), list[Past]()
        for norm, attend, mlp, past in zip(self.norms, self.attends, self.mlps, pasts, strict=True):
            mixed, new = attend(norm(x), past, position)
            x, kept = x + mixed, [*kept, new]
            x = x + mlp(x)
        x = self.norm(x)
        return Output(self.image(x), self.reward(x), self.end(x)), Cache(tuple(kept), position + len(places))


def world_loss(world: TokenWorld, episodes: Episodes, *, drop_text: float = 0.1, generator: Generator | None = None) -> Tensor:  # fmt: skip
    """Return the three means of the module's formula, added, in the logits' dtype: one over all image tokens, two over all actions.

    The world is called once. Of a reward the sign counts. With probability `drop_text` an episode gets text 0 instead of its own,
    so that one network learns both sides of the guidance.
    """
    vocabulary, (text, images, actions, rewards, ends) = world.vocabulary, episodes
    text = text * (torch.rand(len(text), generator=generator) >= drop_text).to(text)
    output, _ = world(interleave(text, images, actions, vocabulary))
    place = torch.arange(output.image.shape[1]) % vocabulary.step
    before_image, at_action = place < vocabulary.n_image, place == vocabulary.n_image + 1
    said = output.image[:, before_image], output.reward[:, at_action], output.end[:, at_action]
    true = images, rewards.sign().long() + 1, ends.long()
    pairs = zip(said, true, strict=True)
    return torch.stack([nn.functional.cross_entropy(s.flatten(0, 1), t.flatten()) for s, t in pairs]).sum()


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Return the logits of the module's formula: 0 leaves the text out, 1 is plain, more says it louder."""
    return unconditional + guidance * (conditional - unconditional)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Return the logits (..., n) with all but the k greatest at -inf; of equal ones as many as make k. ValueError for k outside 1..n."""
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k must be in 1..{logits.shape[-1]}, got {k}")
    values, indices = logits.topk(k, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, indices, values)


def draw(logits: Tensor, sampling: Sampling = PLAIN, *, generator: Generator | None = None) -> Tensor:
    """Draw an index (B,) from softmax(logits/temperature), logits (B, n), among the k greatest if k is given.

    At temperature 0 it is the greatest logit's. ValueError for a negative one, and for a k outside 1..n. Guidance is not applied here.
    """
    if sampling.temperature < 0:
        raise ValueError(f"temperature must not be negative, got {sampling.temperature}")
    kept = logits if sampling.k is None else top_k(logits, sampling.k)
    if sampling.temperature == 0:
        return kept.argmax(dim=-1)
    chances = (kept / sampling.temperature).softmax(dim=-1)
    return torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0].to(logits.device)


@torch.no_grad()
def next_frame(
    world: TokenWorld, text: Tensor, actions: Tensor, cache: Cache, sampling: Sampling = PLAIN, *, generator: Generator | None = None
) -> tuple[Tensor, Tensor, Tensor, Cache]:  # fmt: skip
    """Return the image (B, N) that the actions (B,) lead to, logits of reward (B, 3) and end (B, 2), and the new cache.

    `cache` holds all tokens before the actions; the new one the image as well. Where guidance is not 1, both hold 2·B sequences,
    those without text second; reward and end are read with it. Each token is drawn from the world's logits. No gradients.
    """
    vocabulary, texts = world.vocabulary, [text] if sampling.guidance == 1 else [text, 0 * text]
    tokens = [torch.stack([actions + vocabulary.n_texts, t], dim=1) + vocabulary.n_codes for t in texts]
    output, cache = world(torch.cat(tokens), cache)
    reward, end, image = output.reward[: len(text), 0], output.end[: len(text), 0], []
    for _ in range(vocabulary.n_image):
        parts = output.image[:, -1].split(len(text))
        logits = parts[0] if len(parts) == 1 else guide(parts[0], parts[1], sampling.guidance)
        image.append(draw(logits, sampling, generator=generator))
        output, cache = world(image[-1].repeat(len(texts))[:, None], cache)
    return torch.stack(image, dim=1), reward, end, cache


@torch.no_grad()
def imagine(
    world: TokenWorld, policy: Callable[[Tensor], tuple[Tensor, Tensor]], text: Tensor, images: Tensor, actions: Tensor, *,
    horizon: int, sampling: Sampling = PLAIN, generator: Generator | None = None,
) -> Dream:  # fmt: skip
    """Let the policy act `horizon` steps in dreams that go on from real images (B, L, N) and the actions between (B, L - 1).

    ``policy(images)`` gives action logits (B, A) and values (B,) for all images so far, (B, L + t, N). Actions, rewards and ends are
    drawn from their logits, images as `sampling` says. No gradients. ValueError for a horizon below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    texts = [text] if sampling.guidance == 1 else [text, 0 * text]
    _, cache = world(torch.cat([interleave(t, images, actions, world.vocabulary) for t in texts]))
    (logits, values), alive, steps = policy(images), torch.ones_like(text, dtype=torch.bool), []
    for _ in range(horizon):
        action = draw(logits, generator=generator)
        frame, rewards, ends, cache = next_frame(world, text, action, cache, sampling, generator=generator)
        reward, end = draw(rewards, generator=generator) - 1.0, draw(ends, generator=generator) == 1
        images, before = torch.cat([images, frame[:, None]], dim=1), values
        log_prob = logits.log_softmax(dim=-1).gather(1, action[:, None])[:, 0]
        logits, values = policy(images)
        steps.append((action, log_prob, before, values, reward, end, alive))
        alive = alive & ~end
    return Dream(images, *map(torch.stack, zip(*steps, strict=True)))

"""Worlds with known answers, which remember what they read and refuse what no world can read; and policies."""

import torch
from oracles import DOUBLE, WORDS, interleave, normal, seeded
from torch import nn

from world import Cache, Output

LOUD = 200.0  # of logits: what has probability 1, and exp(200) is more than float32 holds
N_CODES = 97  # of what a table world has read


def kind(token, vocabulary):
    """What an integer of the vocabulary stands for, in words."""
    codes, texts = vocabulary.n_codes, vocabulary.n_texts
    if token < 0 or token >= vocabulary.size:
        return "nothing that the vocabulary has"
    return (
        f"code {token}"
        if token < codes
        else f"text {token - codes}"
        if token < codes + texts
        else f"action {token - codes - texts}"
    )


def check_tokens(tokens, position, vocabulary):
    """A step is a text, the image, an action: refuse another order, other integers, other shapes."""
    assert isinstance(tokens, torch.Tensor), f"the world reads a {type(tokens).__name__}, not a tensor"
    assert tokens.ndim == 2, f"the world reads tokens of shape {tuple(tokens.shape)}, expected (B, T)"
    assert tokens.dtype == torch.int64, f"the world reads tokens of dtype {tokens.dtype}, not int64"
    places = torch.arange(position, position + tokens.shape[1]) % vocabulary.step
    codes, texts = vocabulary.n_codes, vocabulary.n_codes + vocabulary.n_texts
    low = torch.where(places == 0, codes, torch.where(places > vocabulary.n_image, texts, 0))
    high = torch.where(places == 0, texts, torch.where(places > vocabulary.n_image, vocabulary.size, codes))
    bad = ((tokens < low) | (tokens >= high)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        place, token = int(places[column]), int(tokens[row, column])
        wanted = (
            "a text" if place == 0 else "an action" if place > vocabulary.n_image else f"image token {place}"
        )
        raise AssertionError(
            f"the world reads the integer {token}, {kind(token, vocabulary)}, where {wanted} stands (place {place} of a step): "
            "text, image, action, then the next step; codes come first in the vocabulary, then texts, then actions"
        )


class Table(nn.Module):
    """A world whose logits are sums of table rows: the place in the step, the last text and action, and all that was read.

    Its cache holds the tokens themselves. With `loud`, reward and end are certain. `weight` changes nothing, but catches gradients.
    `texts_matter` is how much the text counts.
    """

    def __init__(self, vocabulary=WORDS, *, loud=False, seed=0, texts_matter=1.0, memory=1.0):
        super().__init__()
        self.vocabulary, self.loud, self.memory = vocabulary, loud, memory
        generator = seeded(seed)
        self.n_classes = vocabulary.n_codes + 5
        self.of_place = normal(vocabulary.step, self.n_classes, generator=generator)
        self.of_text = texts_matter * normal(
            vocabulary.n_texts, self.n_classes, generator=generator, scale=1.5
        )
        self.of_action = normal(vocabulary.n_actions + 1, self.n_classes, generator=generator)
        self.of_past = memory * normal(N_CODES, self.n_classes, generator=generator, scale=1.5)
        self.weight = nn.Parameter(torch.ones(()))
        self.read, self.positions, self.n_calls = [], [], 0

    def forward(self, tokens, cache=None):
        position = 0 if cache is None else cache.position
        check_tokens(tokens, position, self.vocabulary)
        if cache is not None:
            kept = cache.layers[0][0]
            assert len(kept) == len(tokens), (
                f"the world reads {len(tokens)} sequences with a cache of {len(kept)}"
            )
        self.n_calls += 1
        self.read.append(tokens.detach().clone())
        self.positions.append(position)
        past = tokens[:, :0] if cache is None else cache.layers[0][0][:, 0, :, 0].long()
        assert past.shape[1] == position, f"the cache says {position} tokens and holds {past.shape[1]}"
        whole = torch.cat([past, tokens], dim=1)
        rows = self.logits(whole)[:, position:] * self.weight
        n = self.vocabulary.n_codes
        image, reward, end = rows[..., :n], rows[..., n : n + 3], rows[..., n + 3 :]
        if self.loud:
            reward, end = (
                LOUD * nn.functional.one_hot(x.argmax(-1), x.shape[-1]) * self.weight for x in (reward, end)
            )
        held = (
            whole.to(DOUBLE)[:, None, :, None] + 0 * self.weight
        )  # it leads back to the weights, as a real cache does
        return Output(image, reward, end), Cache(((held, held.clone()),), position + tokens.shape[1])

    def logits(self, tokens):
        """All logits of whole sequences, (B, T, n_codes + 5)."""
        words, length = self.vocabulary, tokens.shape[1]
        first_action = words.n_codes + words.n_texts
        at = torch.arange(length)
        is_action = tokens >= first_action
        is_text = (tokens >= words.n_codes) & ~is_action
        last_action = torch.where(is_action, at, -1).cummax(dim=1).values
        last_text = torch.where(is_text, at, 0).cummax(dim=1).values
        action = torch.where(
            last_action < 0, words.n_actions, tokens.gather(1, last_action.clamp(min=0)) - first_action
        )
        text = (tokens.gather(1, last_text) - words.n_codes).clamp(0, words.n_texts - 1)
        code = ((tokens + 1) * (3 * at + 5) * ~is_text).cumsum(dim=1) % N_CODES
        return (
            self.of_place[at % words.step] + self.of_text[text] + self.of_action[action] + self.of_past[code]
        )

    def by_hand(self, text, images, actions):
        """Logits of images (B, T, N, n_codes), rewards (B, T', 3) and ends (B, T', 2) of episodes, read from the tables."""
        words = self.vocabulary
        rows = self.logits(interleave(text, images, actions, words))
        n, places = words.n_codes, torch.arange(rows.shape[1]) % words.step
        image = rows[:, places < words.n_image, :n].unflatten(1, (images.shape[1], words.n_image))
        at_action = rows[:, places == words.n_image + 1]
        return image, at_action[..., n : n + 3], at_action[..., n + 3 :]

    def start(self, text, images, actions):
        """The cache of a beginning, as whoever asks for the next frame holds it; what was read then does not count."""
        cache = self(interleave(text, images, actions, self.vocabulary))[1]
        self.read, self.positions, self.n_calls = [], [], 0
        return cache

    @staticmethod
    def held(cache):
        """The tokens that a cache holds."""
        return cache.layers[0][0][:, 0, :, 0].long()


class Coins(nn.Module):
    """A world in which nothing depends on anything: each image token, reward and end has the given probabilities."""

    def __init__(self, image, reward=(0.2, 0.5, 0.3), end=(0.7, 0.3), vocabulary=WORDS):
        super().__init__()
        self.vocabulary = vocabulary
        self.logits = tuple(torch.tensor(p).log() for p in (image, reward, end))

    def forward(self, tokens, cache=None):
        position = 0 if cache is None else cache.position
        check_tokens(tokens, position, self.vocabulary)
        held = torch.zeros(len(tokens), 1, 1, 1)
        output = Output(*(x.expand(*tokens.shape, -1).clone() for x in self.logits))
        return output, Cache(((held, held),), position + tokens.shape[1])


class Teller(nn.Module):
    """A policy whose logits and value depend on all images and on when each was; it has parameters and remembers what it saw."""

    def __init__(self, vocabulary=WORDS, *, scale=1.0, n_frames=12):
        super().__init__()
        self.vocabulary, generator = vocabulary, seeded(7)
        shape = n_frames, vocabulary.n_image, vocabulary.n_codes
        self.logits = nn.Parameter(
            normal(*shape, vocabulary.n_actions, generator=generator, scale=0.4 * scale)
        )
        self.value = nn.Parameter(normal(*shape, generator=generator))
        self.seen = []

    def forward(self, images):
        words = self.vocabulary
        assert images.shape[2:] == (words.n_image,), (
            f"the policy sees images of shape {tuple(images.shape)}, expected (B, frames so far, {words.n_image})"
        )
        assert images.dtype == torch.int64, f"the policy sees images of dtype {images.dtype}, not int64"
        assert images.shape[1] <= len(self.value), f"the policy sees {images.shape[1]} images of one dream"
        self.seen.append(images.detach().clone())
        hot = nn.functional.one_hot(images, words.n_codes).float()
        n = images.shape[1]
        logits = torch.einsum("btnk,tnka->ba", hot, self.logits[:n])
        return logits, torch.einsum("btnk,tnk->b", hot, self.value[:n])


class Constant(nn.Module):
    """A policy that acts with given probabilities whatever it sees."""

    def __init__(self, probabilities):
        super().__init__()
        self.log_p = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, images):
        return self.log_p.expand(len(images), -1), images.float().mean((1, 2))

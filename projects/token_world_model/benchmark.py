"""What a dream costs beside transformers' Mistral, without a cache, beside the diffusion world, and beside the game itself.

All on one thread; rows of a GPU come where there is one. Mistral has the same width, layers, heads, window and vocabulary, and as many
weights per layer: its MLP has three matrices of 256 where ours has two of 384. Weights are random everywhere: times do not depend on
them. The diffusion world is that of the project beside this one.
"""

from __future__ import annotations

import importlib
import logging
import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # what other packages say when transformers imports them
    from transformers import DynamicCache, MistralConfig
    from transformers.models.mistral.modeling_mistral import MistralForCausalLM

    logging.disable(logging.NOTSET)

from game import N_STEPS, Catch
from token_world_model import TokenWorld, draw, interleave, next_frame
from tokenizer import Tokenizer
from train import CALM, collect, encode
from world import Cache, Vocabulary

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark

SIBLING = Path(__file__).resolve().parents[1] / "diffusion_world_model"
QUICK = "--quick" in sys.argv or "--practice" in sys.argv
GAMES, N_FRAMES = (1, 16 if QUICK else 128), 2 if QUICK else N_STEPS
D, N_HEADS, N_LAYERS, WINDOW, VOCABULARY = 96, 4, 3, 44, Vocabulary()


def seeded(seed: int = 0) -> Generator:
    """Return a generator."""
    return Generator().manual_seed(seed)


class Past(NamedTuple):
    """Four steps of n real games."""

    text: Tensor  # (n,)
    frames: Tensor  # (n, 4, 12, 12)
    images: Tensor  # (n, 4, 9)
    actions: Tensor  # (n, 4): the last one leads to the frame that is asked for


def past(n: int, tokenizer: Tokenizer, device: str = "cpu") -> Past:
    """Play n games for four steps."""
    real = collect(n, None, seed=1, generator=seeded())
    frames = real.frames[:, 3:7]
    columns = torch.full((n,), CALM), frames, encode(tokenizer, frames), real.actions[:, 3:7]
    return Past(*(column.to(device) for column in columns))


def case_of(n: int) -> str:
    """Name a case."""
    return f"{n} game{'s' * (n > 1)}"


# --- beside transformers --------------------------------------------------------------------------------------


def mistral() -> MistralForCausalLM:
    """Return transformers' Mistral in the size of our world."""
    config = MistralConfig(
        vocab_size=VOCABULARY.size, hidden_size=D, intermediate_size=4 * D * 2 // 3, num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS, sliding_window=WINDOW, max_position_embeddings=1024,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def ours_dreams(world: TokenWorld, seen: Past, generator: Generator) -> Tensor:
    """Dream N_FRAMES from one image on, under always the same actions."""
    with torch.no_grad():
        _, cache = world(interleave(seen.text, seen.images[:, :1], seen.actions[:, :0], VOCABULARY))
    for _ in range(N_FRAMES):
        image, _, _, cache = next_frame(world, seen.text, seen.actions[:, 0], cache, generator=generator)
    return image


@torch.no_grad()
def theirs_dreams(model: MistralForCausalLM, seen: Past, generator: Generator) -> Tensor:
    """Dream as `ours_dreams`, with transformers' model and cache."""
    cache, image = DynamicCache(config=model.config), list[Tensor]()
    model(interleave(seen.text, seen.images[:, :1], seen.actions[:, :0], VOCABULARY), cache=cache)
    for _ in range(N_FRAMES):
        tokens = torch.stack([seen.actions[:, 0] + VOCABULARY.n_texts, seen.text], dim=1) + VOCABULARY.n_codes
        image = []
        for _ in range(VOCABULARY.n_image):
            logits = model(tokens, cache=cache).logits[:, -1, : VOCABULARY.n_codes]
            tokens = torch.multinomial(logits.softmax(dim=-1).cpu(), 1, generator=generator).to(logits.device)
            image.append(tokens)
        model(tokens, cache=cache)
    return torch.cat(image, dim=1)


@torch.no_grad()
def check_cache(model: Callable[[Tensor, Any], tuple[Tensor, Any]], cache: Any) -> None:
    """Check that logits read token by token are those of the whole sequence, far beyond the window."""
    tokens = torch.randint(VOCABULARY.n_codes, (2, 3 * WINDOW), generator=seeded())
    whole, parts = model(tokens, None)[0], []
    for token in tokens.split(1, dim=1):
        part, cache = model(token, cache)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-4)


def compare_with_transformers(bench: Benchmark, world: TokenWorld, tokenizer: Tokenizer) -> None:
    """Check both caches; then time a dream."""
    model = mistral()

    def theirs(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        return model(tokens, cache=cache, use_cache=cache is not None).logits, cache

    def ours(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        output, cache = world(tokens, cache)
        return output.image, cache

    check_cache(ours, None)
    check_cache(theirs, DynamicCache(config=model.config))
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        for n in GAMES if device == "cpu" else (GAMES[-1], 8 * GAMES[-1]):
            seen = past(n, tokenizer, device)
            case = case_of(n) + (f", {torch.cuda.get_device_name()}" if device == "cuda" else "")
            dreams = [
                partial(timed, dream, network.to(device), seen)
                for dream, network in ((ours_dreams, world), (theirs_dreams, model))
            ]
            bench.compare(f"a dream of {N_FRAMES} frames", case, ours=dreams[0], peers={"transformers": dreams[1]}, rounds=10)  # fmt: skip
    world.cpu()


def timed(dream: Callable[..., Tensor], network: Any, seen: Past) -> None:
    """Dream once, and wait until it is done."""
    dream(network, seen, seeded())
    if seen.text.is_cuda:
        torch.cuda.synchronize()


# --- what the cache saves -------------------------------------------------------------------------------------


def new_world() -> TokenWorld:
    """Return our world with random weights."""
    return TokenWorld(VOCABULARY, d=D, n_heads=N_HEADS, n_layers=N_LAYERS, window=WINDOW).eval()


def cache_of(world: TokenWorld, seen: Past) -> Cache:
    """Return what the world keeps of four steps, the last action not yet taken."""
    with torch.no_grad():
        return world(interleave(seen.text, seen.images, seen.actions[:, :-1], VOCABULARY))[1]


@torch.no_grad()
def without_cache(world: TokenWorld, seen: Past, generator: Generator) -> Tensor:
    """Draw the next frame as `next_frame` does, reading all tokens again for each new one."""
    tokens = interleave(seen.text, seen.images, seen.actions, VOCABULARY)
    tokens = torch.cat([tokens, seen.text[:, None] + VOCABULARY.n_codes], dim=1)
    for _ in range(VOCABULARY.n_image):
        output, _ = world(tokens)
        tokens = torch.cat([tokens, draw(output.image[:, -1], generator=generator)[:, None]], dim=1)
    return tokens[:, -VOCABULARY.n_image :]


def compare_without_cache(bench: Benchmark, world: TokenWorld, tokenizer: Tokenizer) -> None:
    """Check that both draw the same frame; then time them."""
    for n in GAMES:
        seen = past(n, tokenizer)
        cache = cache_of(world, seen)

        def ours(seen: Past = seen, cache: Cache = cache) -> Tensor:
            return next_frame(world, seen.text, seen.actions[:, -1], cache, generator=seeded())[0]

        def again(seen: Past = seen) -> Tensor:
            return without_cache(world, seen, seeded())

        same = (ours() == again()).float().mean()
        assert same > 0.99, f"only {same:.1%} of the tokens are the same with and without a cache"
        bench.compare(
            "the next frame, four steps seen", case_of(n), ours=ours, peers={"without a cache": again}
        )


# --- beside the diffusion world, and the game -----------------------------------------------------------------


def diffusion(n: int, seen: Past) -> Callable[[], Any]:
    """Return a call that draws the next frame by diffusion in three steps, with reward and end."""
    sys.path.append(str(SIBLING))  # at the end: game, train and others stay ours
    theirs, unet = importlib.import_module("diffusion_world_model"), importlib.import_module("unet")
    sigmas = theirs.karras_sigmas(3)
    denoiser = unet.UNet().eval().to(memory_format=torch.channels_last)
    outcome = unet.Outcome().eval()

    @torch.no_grad()
    def call() -> tuple[Tensor, Tensor]:
        frame = theirs.next_frame(denoiser, seen.frames, seen.actions, sigmas, generator=seeded())  # fmt: skip
        result: tuple[Tensor, Tensor] = outcome(seen.frames[:, -1], seen.actions[:, -1], frame)
        return result

    return call


def compare_with_diffusion(bench: Benchmark, world: TokenWorld, tokenizer: Tokenizer) -> None:
    """Time a frame as pixels with reward and end, in both worlds, and a step of the game."""
    for n in GAMES:
        seen, game = past(n, tokenizer), Catch(n)
        cache, action = cache_of(world, seen), seen.actions[:, -1].numpy()
        game.reset(seed=0)

        @torch.no_grad()
        def tokens(seen: Past = seen, cache: Cache = cache) -> Tensor:
            image, *_ = next_frame(world, seen.text, seen.actions[:, -1], cache, generator=seeded())
            return tokenizer.decode(image)

        dreams: dict[str, Callable[[], Any]] = {"tokens": tokens}
        if SIBLING.exists():
            dreams["diffusion"] = diffusion(n, seen)
            bench.compare("a frame as pixels, with reward and end", case_of(n), ours=tokens,
                peers={"diffusion": dreams["diffusion"]}, name="tokens",
            )  # fmt: skip

        def real(game: Catch = game, action: Any = action) -> None:
            game.step(action)

        bench.compare("one step of all games", case_of(n), ours=real, peers=dreams, name="the game")
        times = bench.time({"the game": real, **dreams}, 6)
        speeds = {name: f"{n / statistics.median(seconds):,.0f}" for name, seconds in times.items()}
        columns = {name: speeds.get(name, "NOT RUN") for name in ("the game", "tokens", "diffusion")}
        bench.record("frames a second", case_of(n), columns)


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    torch.manual_seed(0)
    world, tokenizer = new_world(), Tokenizer().eval()
    compare_with_transformers(bench, world, tokenizer)
    compare_without_cache(bench, world, tokenizer)
    compare_with_diffusion(bench, world, tokenizer)
    bench.save()


if __name__ == "__main__":
    main()

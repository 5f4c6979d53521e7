"""What the loop costs beside the network, next to diffusers' loops around the same U-Net; and how good the digits are.

All runs in one process on one thread. diffusers' schedulers get x0 from the same denoiser (``prediction_type="sample"``,
or for its EDM scheduler ``pred_original_sample``), so both sides do the same work per step.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler

from checked import checked
from churn import churned
from diffusion_sampling import ddim, ddpm, euler, heun, karras_sigmas, linear_alpha_bars
from evaluate import evaluate
from guidance import guided_labels
from multistep import dpm_solver_2m
from preconditioning import precondition
from schedules import alpha_bar_to_sigma
from train import NO_CLASS, TrainConfig, load_split, load_weights, train

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import Benchmark, interleave

BATCH, STEPS = 64, 3
Denoiser = Callable[[Tensor, Tensor], Tensor]


def last(states: Iterable[Tensor]) -> Tensor:
    """Return the last state."""
    *_, state = states
    return state


def their_euler(denoiser: Denoiser, x: Tensor, n_steps: int) -> Tensor:
    """Run diffusers' EDM Euler loop."""
    scheduler: Any = EDMEulerScheduler()
    scheduler.set_timesteps(n_steps)
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x0 = denoiser(x, scheduler.sigmas[i])
        x = scheduler.step(x0, t, x, pred_original_sample=x0, return_dict=False)[0]
    return x


def their_discrete(kind: Any, denoiser: Denoiser, x: Tensor, n_steps: int, **options: Any) -> Tensor:
    """Run diffusers' DDIM or DDPM loop."""
    scheduler = kind(beta_start=1e-4, beta_end=0.02, clip_sample=False, prediction_type="sample")
    scheduler.set_timesteps(n_steps)
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[t]
        x0 = denoiser(x / a.sqrt(), ((1 - a) / a).sqrt())
        x = scheduler.step(x0, t, x, return_dict=False, **options)[0]
    return x


def our_discrete(sampler: Any, denoiser: Denoiser, x: Tensor, n_steps: int, **options: Any) -> Tensor:
    """Run our DDIM or DDPM on the same timesteps, the schedule included as on their side."""
    schedule = linear_alpha_bars()
    stride = 1000 // n_steps
    grid = torch.cat([schedule[999 - stride * (n_steps - 1) :: stride][:n_steps], schedule[-1:]])
    return last(sampler(denoiser, x, grid, **options))


def loops(denoiser: Denoiser, noise: Tensor, n: int) -> dict[str, tuple[Callable[[], Tensor], ...]]:
    """Return our loop of `n` steps, the same with checks, and diffusers', by sampler."""
    return {
        "EDM Euler": (
            lambda: last(euler(denoiser, 80 * noise, karras_sigmas(n))),
            lambda: last(checked(euler)(denoiser, 80 * noise, karras_sigmas(n))),
            lambda: their_euler(denoiser, 80 * noise, n),
        ),
        "DDIM": (
            lambda: our_discrete(ddim, denoiser, noise, n),
            lambda: our_discrete(checked(ddim), denoiser, noise, n),
            lambda: their_discrete(DDIMScheduler, denoiser, noise, n),
        ),
        "DDPM": (
            lambda: our_discrete(ddpm, denoiser, noise, n),
            lambda: our_discrete(checked(ddpm), denoiser, noise, n),
            lambda: their_discrete(DDPMScheduler, denoiser, noise, n),
        ),
    }


def compare_loops(bench: Benchmark, network: Any) -> None:
    """Time whole loops with the U-Net, and with a denoiser that costs nothing."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(BATCH, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    answer = torch.randn(BATCH, 1, 8, 8, generator=generator)
    unet: Denoiser = guided_labels(network, labels, 1, no_class=NO_CLASS)

    def free(x: Tensor, sigma: Tensor) -> Tensor:
        return answer

    for group, denoiser, n_steps in (
        (f"{STEPS} steps with the U-Net, batch {BATCH}", unet, STEPS),
        (f"50 steps of the loop alone (the denoiser returns a constant), batch {BATCH}", free, 50),
    ):
        for case, (ours, with_checks, theirs) in loops(denoiser, noise, n_steps).items():
            peers = {"checked": with_checks, "diffusers": theirs}
            bench.compare(group, case, ours=ours, peers=peers, targets={"diffusers": 1.0})

    overhead_of_a_step(bench, unet, free, noise)


def overhead_of_a_step(bench: Benchmark, unet: Denoiser, free: Denoiser, noise: Tensor) -> None:
    """Relate the cost of a step beyond the denoiser to one call of the U-Net."""
    n = 50
    alpha_bars = 1 / (1 + karras_sigmas(n) ** 2)
    level = torch.tensor(1.0)
    calls: dict[str, Callable[[], Any]] = {
        "U-Net": lambda: unet(noise, level),
        "euler": lambda: last(euler(free, noise, karras_sigmas(n))),
        "euler, checked": lambda: last(checked(euler)(free, noise, karras_sigmas(n))),
        "euler, churn": lambda: last(churned(free, noise, karras_sigmas(n), step=euler, churn=10.0)),
        "heun": lambda: last(heun(free, noise, karras_sigmas(n))),
        "dpm_solver_2m": lambda: last(dpm_solver_2m(free, noise, karras_sigmas(n))),
        "ddim": lambda: last(ddim(free, noise, alpha_bars)),
        "ddpm": lambda: last(ddpm(free, noise, alpha_bars)),
    }
    times = {name: sorted(values)[len(values) // 2] for name, values in interleave(calls, rounds=20).items()}
    for name, seconds in times.items():
        if name == "U-Net":
            continue
        n_calls = 2 * n - 1 if name == "heun" else n
        share = seconds / n_calls / times["U-Net"]
        verdict = "< 2%" if share < 0.02 else "**above** 2%"
        columns = {
            "µs per call of the denoiser": f"{seconds / n_calls * 1e6:.0f}",
            "U-Net, µs per call": f"{times['U-Net'] * 1e6:,.0f}",
            "share": f"{share:.2%}, {verdict}",
        }
        bench.record(f"what a step costs beyond the denoiser, batch {BATCH}", name, columns)


def quality(bench: Benchmark, network: Any) -> None:
    """Generate the 360 digits of the held-out classes with each sampler, number of steps and guidance scale."""
    data = load_split()
    noise = torch.randn(360, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = linear_alpha_bars()
    first = int((alpha_bar_to_sigma(schedule) > 20).sum())

    def grid_of(name: str, n: int) -> Tensor:
        if name in ("ddim", "ddpm"):
            return schedule[torch.linspace(first, 1000, n + 1).round().long()]
        return karras_sigmas(n, sigma_min=0.005, sigma_max=20.0)

    samplers: dict[str, Any] = {
        "heun": heun,
        "euler": euler,
        "dpm_solver_2m": dpm_solver_2m,
        "ddim": ddim,
        "ddpm": ddpm,
    }
    runs: list[tuple[str, int, float]] = [("heun", 18, w) for w in (0, 1, 2, 4)]
    runs += [("heun", 5, 1), ("euler", 3, 1), ("euler", 10, 1), ("euler", 35, 1), ("dpm_solver_2m", 10, 1)]
    runs += [
        ("dpm_solver_2m", 18, 1),
        ("ddim", 10, 1),
        ("ddim", 35, 1),
        ("ddpm", 10, 1),
        ("ddpm", 35, 1),
        ("ddpm", 70, 1),
    ]
    for name, n, w in runs:
        denoiser = guided_labels(network, data.held_labels, w, no_class=NO_CLASS)
        options = {"generator": torch.Generator().manual_seed(1)} if name == "ddpm" else {}
        grid = grid_of(name, n)
        start = noise if name in ("ddim", "ddpm") else noise * float(grid[0])
        with torch.no_grad():
            images = last(samplers[name](denoiser, start, grid, **options))
        report = evaluate(images, data.held_labels)
        calls = 2 * n - 1 if name == "heun" else n
        columns = {
            "w": f"{w:g}",
            "calls": f"{calls}",
            "accuracy": f"{report.accuracy:.1%}",
            "Fréchet": f"{report.frechet:.2f}",
            "nearest": f"{report.nearest:.2f}",
            "diversity": f"{report.diversity:.2f}",
        }
        bench.record("360 digits: sampler × steps × guidance", f"{name}, {n} steps", columns)
    columns = {
        "w": "",
        "calls": "",
        "accuracy": "",
        "Fréchet": f"{report.frechet_floor:.2f}",
        "nearest": f"{report.nearest_floor:.2f}",
        "diversity": f"{report.diversity_floor:.2f}",
    }
    bench.record("360 digits: sampler × steps × guidance", "held-out real digits", columns)


def training(bench: Benchmark) -> None:
    """Time whole training steps of the documented run, optimizer and average included."""
    config, data, n_steps = TrainConfig(), load_split(), 20

    def steps() -> None:
        with torch.enable_grad():
            train(config, data.train_images, data.train_labels, stop_after=n_steps)

    threads = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        seconds = statistics.median(interleave({"steps": steps}, rounds=5)["steps"]) / n_steps
        columns = {
            "ms per step": f"{seconds * 1e3:.0f}",
            f"minutes for {config.n_steps:,} steps": f"{seconds * config.n_steps / 60:.1f}",
        }
        bench.record(f"training, batch {config.batch_size}", f"{n} thread{'s' if n > 1 else ''}", columns)
    torch.set_num_threads(threads)


def main() -> None:
    """Measure, and write results/ and the tables of the README."""
    bench = Benchmark(__file__, threads=1)
    torch.set_grad_enabled(False)
    model, sigma_data = load_weights(Path(__file__).parent / "weights" / "digits.safetensors")
    network = precondition(model, sigma_data=sigma_data)
    compare_loops(bench, network)
    quality(bench, network)
    training(bench)
    bench.save()


if __name__ == "__main__":
    main()

"""Diffusion on real digits and on distributions whose answer is known.

1. The forward process: one digit on its way into noise, in both bookkeepings.
2. The reverse process: three samplers from the same noise; an animation of one run.
3. Guidance: every class at four scales.
4. Error over steps against the solved ODE.
5. DIAMOND's setting: one to ten steps for the next frame, and what a network's error does in each parameterisation.
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_sampling import add_noise, ddim, ddpm, euler, heun, karras_sigmas, linear_alpha_bars, sample
from evaluate import evaluate
from exact import Gaussian
from guidance import guided_labels
from multistep import dpm_solver_2m
from preconditioning import edm_preconditioning, precondition
from schedules import alpha_bar_to_sigma
from train import NO_CLASS, load_split, load_weights

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.demo import Demo

HERE = Path(__file__).resolve().parent
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
SIGMA_MIN, SIGMA_MAX = 0.005, 20.0  # of the digits: their deviation is 0.75


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def part_of(alpha_bars: Tensor, n_steps: int) -> Tensor:
    """Return n_steps evenly spaced timesteps of a schedule, from where sigma is SIGMA_MAX to the end."""
    first = int((alpha_bar_to_sigma(alpha_bars) > SIGMA_MAX).sum())
    return alpha_bars[torch.linspace(first, len(alpha_bars) - 1, n_steps + 1).round().long()]


def show(axis: Any, image: Tensor) -> None:
    """Draw one 8×8 image without axes; outside -1..1 is clipped to black or white."""
    axis.imshow(image.reshape(8, 8).numpy(), cmap="gray_r", vmin=-1, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def forward_process(demo: Demo) -> None:
    """Noise one digit in both bookkeepings."""
    data = load_split()
    x0 = data.held_images[3:4]
    noise = torch.randn(x0.shape, generator=seeded())
    sigmas = [0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0]
    fig, axes = plt.subplots(2, len(sigmas), figsize=(9, 3.1), layout="constrained")
    for column, sigma in enumerate(sigmas):
        alpha_bar = 1 / (1 + sigma**2)
        show(axes[0, column], add_noise(x0, noise, sigma=sigma))
        show(axes[1, column], add_noise(x0, noise, alpha_bar=alpha_bar))
        axes[0, column].set_title(f"σ = {sigma:g}", fontsize=10)
        axes[1, column].set_title(f"ᾱ = {alpha_bar:.2g}", fontsize=10)
    axes[0, 0].set_ylabel("x0 + σ·n", fontsize=10)
    axes[1, 0].set_ylabel("x_t", fontsize=10)
    demo.figure(
        "forward",
        fig,
        alt="A handwritten digit in seven columns of growing noise, in two rows. Above, the noise grows until it "
        "saturates the image; below, the digit fades while the contrast stays.",
        caption="EDM's state and DDPM's are one thing at two scales. Above EDM's, whose noise "
        "grows; below DDPM's, which is the same divided by sqrt(1 + σ²). Same digit, same "
        "noise.",
    )


def reverse_process(demo: Demo, network: Any) -> None:
    """Run three samplers from one noise, and write one run as an animation."""
    labels = torch.tensor([5])
    denoiser = guided_labels(network, labels, 1, no_class=NO_CLASS)
    noise = torch.randn(1, 1, 8, 8, generator=seeded(4))
    schedule, columns = linear_alpha_bars(), 8
    runs = [
        ("DDPM, 100 steps", ddpm, noise, part_of(schedule, 100), {"generator": seeded(1)}),
        ("DDIM, 20 steps", ddim, noise, part_of(schedule, 20), {}),
        (
            "Heun, 10 steps",
            heun,
            noise * SIGMA_MAX,
            karras_sigmas(10, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX),
            {},
        ),
    ]
    fig, axes = plt.subplots(len(runs), columns, figsize=(9, 3.7), layout="constrained")
    for row, (name, sampler, x, grid, options) in enumerate(runs):
        with torch.no_grad():
            states = [x, *sampler(denoiser, x, grid, **options)]  # type: ignore[operator]
        unscaled = bool(grid[0] > grid[-1])  # sigmas: EDM's state
        sigmas = grid if unscaled else alpha_bar_to_sigma(grid)
        for column, position in enumerate(np.linspace(0, len(states) - 1, columns).round().astype(int)):
            scale = math.sqrt(1 + float(sigmas[position]) ** 2) if unscaled else 1.0
            show(axes[row, column], states[position] / scale)
            axes[row, column].set_title(f"σ {float(sigmas[position]):.2g}", fontsize=9)
        axes[row, 0].set_ylabel(name.replace(", ", "\n"), fontsize=10)
    demo.figure(
        "reverse",
        fig,
        alt="Three rows of eight images, each from the same noise on the left to a clear digit 5 on the right: DDPM, "
        "DDIM and Heun.",
        caption="DDIM and Heun follow one curve; DDPM renews its noise in every step and ends "
        "elsewhere. All from one noise, all states at DDPM's scale.",
    )
    write_animation(demo, network)


def write_animation(demo: Demo, network: Any) -> None:
    """Write build/sampling.gif (and results/ with --save): ten classes at once, Heun in 18 steps."""
    labels = torch.arange(10)
    denoiser = guided_labels(network, labels, 1, no_class=NO_CLASS)
    grid = karras_sigmas(18, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    x = torch.randn(10, 1, 8, 8, generator=seeded(2)) * SIGMA_MAX
    with torch.no_grad():
        states = [x, *heun(denoiser, x, grid)]
    frames = []
    for state, sigma in zip(states, grid.tolist(), strict=True):
        scaled = state / math.sqrt(1 + sigma**2)
        strip = torch.cat(list(scaled[:, 0]), dim=1).clamp(-1, 1)
        pixels = ((1 - strip) * 127.5).byte().numpy().repeat(8, axis=0).repeat(8, axis=1)
        frames.append(Image.fromarray(pixels))
    path = demo.build / "sampling.gif"
    durations = [250] * (len(frames) - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    if "--save" in sys.argv:
        shutil.copy(path, HERE / "results" / path.name)
    demo.console.print(f"animation: build/{path.name}")


def guidance(demo: Demo, network: Any) -> None:
    """Draw every class at four scales from the same noise, and count for 360 digits."""
    data = load_split()
    grid = karras_sigmas(18, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    noise = torch.randn(360, 1, 8, 8, generator=seeded())
    reports = {}
    for w in (0, 1):
        denoiser = guided_labels(network, data.held_labels, w, no_class=NO_CLASS)
        images = sample(heun, denoiser, noise, grid)
        reports[w] = evaluate(images, data.held_labels)
    one = reports[1]
    parameters = sum(p.numel() for p in load_weights(HERE / "weights" / "digits.safetensors")[0].parameters())
    demo.number("unet_parameters", parameters, ",.0f", "parameters of the U-Net")
    demo.number(
        "accuracy", one.accuracy, ".1%", "generated digits read as the class asked for, w = 1, Heun-18"
    )
    demo.number("accuracy_w0", reports[0].accuracy, ".1%", "the same at w = 0, where the class is ignored")
    demo.number("frechet", one.frechet, ".2f", "Fréchet distance to the training digits, w = 1")
    demo.number("frechet_floor", one.frechet_floor, ".2f", "the same of the held-out digits: the floor")
    demo.number("nearest", one.nearest, ".2f", "median distance to the nearest training digit, w = 1")
    demo.number("nearest_floor", one.nearest_floor, ".2f", "the same of the held-out digits")
    demo.number("diversity", one.diversity, ".2f", "mean distance within a class, w = 1")
    demo.number("diversity_floor", one.diversity_floor, ".2f", "the same of the held-out digits")

    scales = (0, 1, 2, 4)
    labels = torch.arange(10)
    fig, axes = plt.subplots(len(scales), 10, figsize=(9, 4.0), layout="constrained")
    for row, w in enumerate(scales):
        denoiser = guided_labels(network, labels, w, no_class=NO_CLASS)
        images = sample(heun, denoiser, torch.randn(10, 1, 8, 8, generator=seeded(3)), grid)
        for label in range(10):
            show(axes[row, label], images[label])
            if row == 0:
                axes[row, label].set_title(str(label), fontsize=11)
        axes[row, 0].set_ylabel(f"w = {w}", fontsize=11)
    demo.figure(
        "guidance",
        fig,
        alt="A grid of generated digits: ten columns, one per class, and four rows of growing guidance. The first row "
        "shows any digit, the second the class asked for, the lower rows bolder and more alike versions of it.",
        caption="Guidance exaggerates what the class changes. w = 0 ignores the class, w = 1 is the "
        "model as trained. All from the same noise.",
    )


def convergence(demo: Demo) -> None:
    """Measure errors over steps against the solved ODE of a Gaussian, down to sigma_min > 0 and down to 0."""
    data = Gaussian(
        torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([[0.9, 0.6], [0.6, 1.3]]).double()
    )
    x = 10 * torch.randn(500, 2, dtype=torch.float64, generator=seeded())
    steps = [4, 8, 16, 32, 64, 128, 256]
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    styles = {
        "euler": (euler, BLUE, "o-"),
        "heun": (heun, ORANGE, "s-"),
        "dpm_solver_2m": (dpm_solver_2m, GREEN, "^-"),
    }
    for axis, to_zero in zip(axes, (False, True), strict=True):
        end = 0.0 if to_zero else 0.02
        exact = data.flow(x, 10.0, end)
        for name, (sampler, colour, style) in styles.items():
            errors = []
            for n in steps:
                grid = karras_sigmas(n, sigma_min=0.02, sigma_max=10.0, to_zero=to_zero)
                *_, last = sampler(data.denoise, x, grid)
                errors.append(float((last - exact).square().mean().sqrt()))
            axis.loglog(steps, errors, style, color=colour, label=name)
            if not to_zero:
                order = -np.polyfit(np.log(steps[3:]), np.log(errors[3:]), 1)[0]
                demo.number(f"order_{name}", order, ".2f", f"order of convergence of {name}, 32 to 256 steps")
        axis.set(title="last step to 0" if to_zero else "stop at σ = 0.02", xlabel="steps", xticks=steps)
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.minorticks_off()
    axes[0].set_ylabel("RMS error against the exact flow")
    axes[0].legend(frameon=False)
    demo.figure(
        "convergence",
        fig,
        alt="Errors over steps on logarithmic axes. Left: Euler falls along a straight line of slope one, Heun and "
        "DPM-Solver with slope two. Right, with a last step to zero, the two stop falling.",
        caption="Two samplers are of second order, until a last step to 0 adds an error of its own "
        "that more steps do not reduce. The denoiser is exact, so all error is the "
        "sampler's.",
    )


# --- DIAMOND --------------------------------------------------------------------------------------------------

TURN, SPREAD = 0.5, 0.02  # the frame turns by ±0.5 rad; pixels are known to 0.02
STAY = 0.9  # probability of turning on; else it turns back
NETWORK_ERROR = 0.1  # RMS error of the network's output, whose scale is one in both parameterisations


def next_means(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two frames that can follow: turned on, turned back."""
    c, s = math.cos(TURN), math.sin(TURN)
    turn = torch.tensor([[c, -s], [s, c]], dtype=frame.dtype)
    return frame @ turn.T, frame @ turn


def exact_next(frame: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Return E[next frame | noisy next frame, last frame]: a mixture of two, one pair of means per sample."""
    means = torch.stack(next_means(frame), dim=1)  # (batch, 2, d)
    total = SPREAD**2 + sigma**2
    offset = x[:, None] - means
    log_weight = torch.tensor([STAY, 1 - STAY], dtype=x.dtype).log() - offset.square().sum(-1) / (2 * total)
    answers = means + SPREAD**2 / total * offset
    return (log_weight.softmax(1)[..., None] * answers).sum(1)


def network_error(frame: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Return a smooth function of what a network sees, of RMS NETWORK_ERROR: the same for all parameterisations.

    Each sample has a function of its own, so the table averages over a thousand wrong networks.
    """
    c = edm_preconditioning(sigma, sigma_data=0.7)
    seen = torch.cat([c.c_in * x, c.c_noise.expand(len(x), 1), frame], dim=1)
    weights = 2 * torch.randn(len(x), 2, 5, dtype=x.dtype, generator=seeded(5))
    phases = 2 * math.pi * torch.rand(len(x), 2, dtype=x.dtype, generator=seeded(6))
    return NETWORK_ERROR * math.sqrt(2) * (torch.einsum("bds,bs->bd", weights, seen) + phases).sin()


def draw_next(frame: Tensor, variant: str, n_steps: int, generator: torch.Generator) -> Tensor:
    """Sample the next frame with one of the four variants of the table."""

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = exact_next(frame, x, sigma)
        if variant == "exact":
            return x0
        c_out = edm_preconditioning(sigma, sigma_data=0.7).c_out
        return x0 + (c_out if variant == "EDM" else -sigma) * network_error(frame, x, sigma)

    noise = torch.randn(frame.shape, dtype=frame.dtype, generator=generator)
    if variant == "DDPM":
        schedule = linear_alpha_bars()
        grid = schedule[torch.linspace(0, len(schedule) - 1, n_steps + 1).round().long()]
        return sample(ddpm, denoiser, noise, grid, generator=generator)
    return sample(euler, denoiser, noise, karras_sigmas(n_steps, sigma_max=5.0))


def diamond(demo: Demo) -> None:
    """Sample next frames in 1, 2, 3 and 10 steps: distance to the nearer possible frame, and drift after 20 frames."""
    angle = 2 * math.pi * torch.rand(1000, 1, dtype=torch.float64, generator=seeded(1))
    start = torch.cat([angle.cos(), angle.sin()], dim=1)
    variants = ("exact", "EDM", "epsilon", "DDPM")
    rows, n_frames = [], 20
    for n_steps in (1, 2, 3, 10):
        first, drift = {}, {}
        for variant in variants:
            generator, frame = seeded(2), start
            for number in range(n_frames):
                after = draw_next(frame, variant, n_steps, generator)
                if number == 0:
                    distances = torch.stack([(after - mean).norm(dim=1) for mean in next_means(frame)])
                    first[variant] = float(distances.min(0).values.square().mean().sqrt())
                frame = after
            drift[variant] = float((frame.norm(dim=1) - 1).square().mean().sqrt())
        rows.append([n_steps, *(f"{first[v]:.3g}" for v in variants), *(f"{drift[v]:.3g}" for v in variants)])
        if n_steps == 1:
            demo.number("edm_1", first["EDM"], ".2f", "one step, EDM: distance to the nearer possible frame")
            demo.number(
                "epsilon_1", first["epsilon"], ".2f", "the same, noise prediction with the same network error"
            )
        if n_steps == 3:
            demo.number(
                "edm_3", first["EDM"], ".2f", "three steps, EDM: distance to the nearer possible frame"
            )
            demo.number(
                "epsilon_3", first["epsilon"], ".2f", "the same, noise prediction with the same network error"
            )
            demo.number("ddpm_3", first["DDPM"], ".2f", "the same, noise prediction on DDPM's schedule")
            demo.number("drift_frames", n_frames, "d", "frames sampled one after another, three steps each")
            demo.number(
                "drift_exact", drift["exact"], ".2f", "drift off the circle after them, exact denoiser"
            )
            demo.number("drift_edm", drift["EDM"], ".2f", "the same, EDM with the network error")
    names = ("exact", "EDM", "ε, same steps", "ε, DDPM")
    columns = ["steps", *(f"{name}: one frame" for name in names), *(f"{name}: 20 frames" for name in names)]
    floor = SPREAD * math.sqrt(2)
    caption = (
        f"RMS distance of a sampled next frame to the nearer of the two possible ones (real frames: {floor:.3f}), and drift "
        f"off the unit circle after {n_frames} sampled frames (real: about {SPREAD * math.sqrt(n_frames):.2f}). Euler on "
        f"DIAMOND's grid but for the last variant, which is ancestral on the linear schedule. Network error "
        f"{NETWORK_ERROR} of the output's scale in all but the first."
    )
    demo.table("diamond", columns, rows, caption=caption)


def main() -> None:
    """Run all parts."""
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
    demo = Demo(__file__)
    model, sigma_data = load_weights(HERE / "weights" / "digits.safetensors")
    network = precondition(model, sigma_data=sigma_data)
    forward_process(demo)
    reverse_process(demo, network)
    guidance(demo, network)
    convergence(demo)
    diamond(demo)
    demo.finish()


if __name__ == "__main__":
    main()

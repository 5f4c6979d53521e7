"""Quantization on real digits and on a transformer block: how good, how small, from where on fast, and what breaks.

1. A curve on 16 levels: the affine map.
2. Digits and a block in every form: accuracy, SQNR, size.
3. Vector quantization: patches of digits as the numbers of codes.
4. What breaks: an outlier channel, and sums of 8-bit products in int16.
5. From which batch size on int8 beats float32 on this machine.
6. Distillation without labels, beside the same student with 60 labels.
7. A planted bottleneck, found by its profile.
"""

from __future__ import annotations

import copy
import math
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmark import Block
from deploy import quantize_network
from distillation import train_student
from files import save_quantized
from observers import sqnr
from profiling import Bottlenecked, linear_cost, measure_peaks, profile_operators, verdict
from qat import prepare_qat
from quantization import choose_qparams, fake_quantize, torch_dynamic
from smooth import smooth
from torch_quantization import known_warnings, torch_static, torchao_dynamic

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the repository root, for shared/
from shared.measuring.benchmark import interleave
from shared.measuring.demo import Demo

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"  # Okabe and Ito
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Data:
    """Return 1437 digits to train on and 360 held out: pixels in 0..1 (n, 64), and classes."""
    data: Any = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    classes = torch.tensor(data.target)[order]
    return pixels[:1437], classes[:1437], pixels[1437:], classes[1437:]


def run(model: nn.Module, x: Tensor) -> Tensor:
    """Apply without gradient."""
    with torch.no_grad():
        result: Tensor = model(x)
    return result


def accuracy(model: nn.Module, data: Data) -> float:
    """Return the share of held-out digits that are read correctly."""
    return (run(model, data[2]).argmax(1) == data[3]).float().mean().item()


def affine_figure(demo: Demo) -> None:
    """Draw a curve and its values on 16 levels, and the error, which stays within half a step."""
    t = torch.linspace(0, 6.28, 400)
    x = torch.sin(t) + 0.43
    scale, zero_point = choose_qparams(x.min(), x.max(), n_bits=4)
    back = fake_quantize(x, scale, zero_point, n_bits=4)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(t, x, color=GREY, label="float")
    left.plot(t, back, color=BLUE, label="4 bits")
    left.axhline(0, color="black", lw=0.5)
    left.legend(frameon=False)
    left.set_xlabel("t")
    right.plot(t, (back - x) / scale, color=RED, lw=0.9)
    right.set_ylim(-0.75, 0.75)
    right.axhline(0.5, color="black", lw=0.5, ls=":")
    right.axhline(-0.5, color="black", lw=0.5, ls=":")
    right.set(xlabel="t", ylabel="error, in steps")
    demo.figure(
        "affine",
        figure,
        alt="Left: a sine and its staircase of 16 levels. Right: the error, a saw tooth between -1/2 and 1/2 step.",
        caption="Sixteen levels, one of them exactly 0. The error of rounding is at most half a step.",
    )


def forms_table(demo: Demo, data: Data) -> nn.Module:
    """Quantize a trained digits network and a block in every way; return the float network."""
    pixels, classes, held_out, _ = data
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 10))
    train_student(model, pixels, labels=classes, generator=torch.Generator().manual_seed(0))
    block = Block(768, 12).eval()
    x, seen = torch.randn(2, 64, 768), [torch.randn(2, 64, 768)]
    trained = prepare_qat(model, n_bits=4, group_size=32)
    again: dict[str, Any] = {"n_steps": 200, "learning_rate": 1e-3}
    train_student(trained, pixels, labels=classes, generator=torch.Generator().manual_seed(1), **again)
    int4: dict[str, Any] = {"mode": "weight_only", "n_bits": 4}
    forms: dict[str, dict[str, Any]] = {
        "ours, dynamic (per row)": {},
        "ours, dynamic, 7-bit activations": {"reduce_range": True},
        "ours, static": {"mode": "static"},
        "ours, int8 weights only": {"mode": "weight_only"},
        "ours, int4 weights only": int4,
    }
    rows: list[tuple[str, nn.Module, nn.Module | None]] = []
    for name, options in forms.items():
        form = quantize_network(model, calibration=[pixels[:256]], **options)
        rows.append((name, form, quantize_network(block, calibration=seen, **options)))
    rows += [
        ("ours, int4 after QAT", quantize_network(trained, **int4), None),
        ("torch.ao, dynamic", torch_dynamic(model), torch_dynamic(block)),
        ("torch.ao, static", torch_static(model, [pixels[:256]]), None),
        ("torchao, dynamic (per token)", torchao_dynamic(model), torchao_dynamic(block)),
    ]
    exact, exact_block = run(model, held_out), run(block, x)
    cells = [["float32", f"{accuracy(model, data):.1%}", "", ""]]
    measured = {}
    for name, form, block_form in rows:
        ratios = [sqnr(exact, run(form, held_out))]
        ratios += [sqnr(exact_block, run(block_form, x))] if block_form is not None else []
        measured[name] = accuracy(form, data), *ratios
        cells.append(
            [name, f"{accuracy(form, data):.1%}", *(f"{r:.1f}" for r in ratios), *[""] * (2 - len(ratios))]
        )
    for dtype in (torch.bfloat16, torch.float16):
        cast, block_cast = copy.deepcopy(model).to(dtype), copy.deepcopy(block).to(dtype)
        y, z = run(cast, held_out.to(dtype)).float(), run(block_cast, x.to(dtype)).float()
        right = (y.argmax(1) == data[3]).float().mean().item()
        cells.append([str(dtype)[6:], f"{right:.1%}", f"{sqnr(exact, y):.1f}", f"{sqnr(exact_block, z):.1f}"])
    demo.table(
        "forms",
        ["form", "digits read", "SQNR of digits, dB", "SQNR of a block of width 768, dB"],
        cells,
        "Held-out digits through a 64-128-96-10 network, and random tokens through a random block. Accuracy hardly tells "
        "the forms apart; the signal to noise ratio does.",
    )
    demo.number("float_accuracy", accuracy(model, data), ".1%", "held-out digits read by the float32 network")
    names = [*list(forms)[:3], "torch.ao, dynamic", "torch.ao, static"]
    for key, name in zip(("dynamic", "seven", "static", "torch_dynamic", "torch_static"), names, strict=True):
        demo.number(f"{key}_db", measured[name][1], ".1f", f"SQNR on digits in dB: {name}")
    demo.number("int8_accuracy", measured["ours, static"][0], ".1%", "digits read by the static int8 network")
    demo.number("qat_accuracy", measured["ours, int4 after QAT"][0], ".1%", "digits read by int4 after QAT")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        sizes = []
        save_file(model.state_dict(), path)
        sizes.append(path.stat().st_size)
        for options in ({}, int4):
            save_quantized(quantize_network(model, **options), path)
            sizes.append(path.stat().st_size)
    demo.number("int8_size", sizes[1] / sizes[0], ".2f", "size of the int8 file, float32 = 1")
    demo.number("int4_size", sizes[2] / sizes[0], ".2f", "size of the int4 file, float32 = 1")
    return model


def smoothed(block: Block, x: Tensor) -> Block:
    """Return the same function with the input outliers of qkv moved from the norm into the weight."""
    moved = copy.deepcopy(block)
    factors = smooth(run(block.norm1, x).flatten(0, 1).abs().amax(0), block.qkv.weight)
    with torch.no_grad():
        moved.norm1.weight.div_(factors)
        moved.norm1.bias.div_(factors)
        moved.qkv.weight.mul_(factors)
    return moved


def outliers(demo: Demo) -> None:
    """Plant a channel that is k times larger than the rest, and measure the query-key-value projection."""
    torch.manual_seed(0)
    block, x = Block(192, 4).eval(), torch.randn(4, 64, 192)
    sizes = [1, 3, 10, 30, 100, 300]
    curves: dict[str, list[float]] = {
        name: [] for name in ("static, per tensor", "dynamic, per token", "static, smoothed")
    }
    for size in sizes:
        with torch.no_grad():
            block.norm1.weight[7] = size
        moved = smoothed(block, x)
        exact = run(block.qkv, run(block.norm1, x))
        modes = ("static", "dynamic", "static")
        for name, net, mode in zip(curves, (block, block, moved), modes, strict=True):
            projection = nn.Sequential(net.norm1, net.qkv).eval()
            quantized = quantize_network(projection, mode=mode, calibration=[x] if mode == "static" else None)
            rest = exact - run(block.norm1, x)[..., 7:8] * block.qkv.weight[:, 7].detach()
            noise = run(quantized, x) - exact
            curves[name].append(sqnr(rest, rest + noise))
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for (name, values), color in zip(curves.items(), (RED, BLUE, GREEN), strict=True):
        axes.plot(sizes, values, "o-", color=color, label=name)
    axes.set_xscale("log")
    axes.set(xlabel="size of one input channel, the others 1", ylabel="SQNR of the other channels' part, dB")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    demo.figure(
        "outliers",
        figure,
        alt="With one channel up to 300 times larger, all curves fall: static fastest, smoothed least.",
        caption="One outlier channel sets the scale for all others. A scale per token helps tokens whose outlier is "
        "small; a large outlier is better moved into the weights.",
    )
    static, token, smoothed_db = (curve[4] for curve in curves.values())
    demo.number("outlier_static_db", static, ".1f", "dB left beside a channel 100 times larger, static")
    demo.number("outlier_token_db", token, ".1f", "the same with a scale per token")
    demo.number("outlier_smooth_db", smoothed_db, ".1f", "the same with smoothing")


def saturation(demo: Demo) -> None:
    """Ask torch's own int8 kernel for the largest sum of 8-bit and of 7-bit activations."""
    weight = torch.full((1, 64), 127, dtype=torch.int8)
    for key, top, label in (("eight", 255, "8-bit"), ("seven_bits", 127, "7-bit")):
        with known_warnings():
            q_weight = torch._make_per_channel_quantized_tensor(
                weight, torch.ones(1).double(), torch.zeros(1, dtype=torch.int64), 0
            )
            packed = torch.ops.quantized.linear_prepack(q_weight, None)
            q_x = torch._make_per_tensor_quantized_tensor(torch.full((1, 64), top, dtype=torch.uint8), 1.0, 0)
            y = torch.ops.quantized.linear(q_x, packed, top * 127 * 64 / 200, 0)
        label = f"torch's kernel on this CPU, share of the largest sum it returns, {label} activations"
        demo.number(f"kernel_{key}", int(y.int_repr()) / 200, ".1%", label)


def crossover(demo: Demo) -> None:
    """Time linear layers over the batch size and draw where int8 begins to pay."""
    batches = [1, 4, 16, 64, 256, 1024]
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for width, style in ((128, "--"), (1024, "-")):
        layer = nn.Sequential(nn.Linear(width, width)).eval()
        forms = {"ours": quantize_network(layer, reduce_range=True), "torch.ao": torch_dynamic(layer)}
        speedups: dict[str, list[float]] = {name: [] for name in forms}
        for batch in batches:
            x = torch.randn(batch, width)
            calls = {name: partial(form, x) for name, form in {"float32": layer, **forms}.items()}
            with torch.no_grad():
                times = interleave(calls, rounds=7)
            for name in forms:
                pairs = zip(times["float32"], times[name], strict=True)
                speedups[name].append(statistics.median(float32 / own for float32, own in pairs))
        for name, color in (("ours", BLUE), ("torch.ao", ORANGE)):
            speeds, which = speedups[name], f"{name}, width {width}"
            axes.plot(batches, speeds, style, marker="o", ms=3, color=color, label=which)
            first = next((b for k, b in enumerate(batches) if min(speeds[k:]) > 1), None)
            key = f"pays_{name.replace('.', '_')}_{width}"
            if first is not None:
                demo.number(
                    key, first, ".0f", f"smallest measured batch from which int8 stays ahead: {which}"
                )
            demo.number(f"batch1_{key}", speeds[0], ".2f", f"speed at batch 1, float32 = 1: {which}")
            demo.number(f"most_{key}", max(speeds), ".2f", f"best speed, float32 = 1: {which}")
    axes.axhline(1, color="black", lw=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.set(xlabel="batch size", ylabel="speed, float32 = 1")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    axes.grid(alpha=0.3)
    demo.figure(
        "crossover",
        figure,
        alt="Speed of int8 over float32 against the batch size for widths 128 and 1024, with a line at 1.",
        caption="Quantizing the input costs a fixed time that a small product does not earn back. A "
        "linear layer, dynamic int8, one thread; below the line int8 is slower.",
    )


def distillation(demo: Demo, data: Data, teacher: nn.Module) -> None:
    """Train six students on the teacher's logits and six on 60 labels."""
    pixels, classes = data[:2]
    pairs = []
    for seed in range(6):
        torch.manual_seed(seed)
        student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        twin = copy.deepcopy(student)
        few = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:60]
        train_student(student, pixels, teacher=teacher, generator=torch.Generator().manual_seed(seed))
        train_student(twin, pixels[few], labels=classes[few], generator=torch.Generator().manual_seed(seed))
        pairs.append((accuracy(twin, data), accuracy(student, data)))
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for labelled, distilled in pairs:
        axes.plot([0, 1], [labelled, distilled], "o-", color=BLUE, alpha=0.7)
    axes.axhline(accuracy(teacher, data), color=ORANGE, ls="--", label="teacher")
    axes.set_xticks([0, 1], ["60 labels", "teacher's logits,\nno label"])
    axes.set_xlim(-0.3, 1.3)
    axes.set_ylabel("held-out digits read")
    axes.legend(frameon=False)
    demo.figure(
        "distillation",
        figure,
        alt="Six lines, each rising from a student of 60 labels to the same student of the teacher's logits.",
        caption="Six seeds: a student with 16 hidden neurons learns more from logits on unlabelled digits than from 60 labels.",
    )
    of_labels, of_logits = (statistics.mean(column) for column in zip(*pairs, strict=True))
    demo.number("student_labels", of_labels, ".1%", "students of 60 labels, mean of six")
    demo.number("student_logits", of_logits, ".1%", "students of the teacher's logits, mean of six")
    demo.number("student_wins", sum(b > a for a, b in pairs), ".0f", "seeds of six in which the logits win")


def bottleneck(demo: Demo) -> None:
    """Profile the network with the planted loop, fix it, profile again, and place two batch sizes on the roofline."""
    peak, bandwidth = measure_peaks()
    peaks = {"peak_flops": peak, "bandwidth": bandwidth}
    demo.number("peak_gflops", peak / 1e9, ".0f", "GFLOP/s of a float32 product, one thread")
    demo.number("bandwidth_gbs", bandwidth / 1e9, ".1f", "GB/s of a copy")
    demo.number("ridge", peak / bandwidth, ".1f", "FLOP per byte from which on arithmetic is the limit")
    x = torch.randn(512, 128)
    slow, fast = Bottlenecked(128).eval(), Bottlenecked(128, fixed=True).eval()
    fast.load_state_dict(slow.state_dict())
    rows, times = [], []
    for name, net in (("with the loop", slow), ("fixed", fast)):
        with torch.no_grad():
            profile = profile_operators(lambda net=net: net(x), trace=demo.build / f"trace-{name[:4]}.json")  # type: ignore[misc]
            start = time.perf_counter()
            for _ in range(5):
                net(x)
            times.append((time.perf_counter() - start) / 5)
        for row in profile[:4]:
            bound = verdict(row.flops, row.n_bytes, **peaks) if row.n_bytes else "no product"
            rate = f"{row.flops / row.self_ms / 1e6:.0f}" if row.flops and row.n_bytes else ""
            rows.append([name, row.name, row.n_calls, f"{row.self_ms:.2f}", f"{row.share:.0%}", rate, bound])
    demo.table(
        "bottleneck",
        ["network", "operator", "calls", "self ms", "share", "GFLOP/s", "bound"],
        rows,
        "The four operators with the most time in five calls, under the profiler. Many calls of a cheap operator: overhead, "
        "neither memory nor arithmetic.",
    )
    demo.number("fixed_speedup", times[0] / times[1], ".1f", "times faster without the planted loop")
    for batch in (1, 1024):
        flops, n_bytes = linear_cost(batch, 1024, 1024)
        bound = verdict(flops, n_bytes, **peaks)
        label = f"FLOP per byte of a 1024 x 1024 layer at batch {batch} ({bound})"
        demo.number(f"intensity_{batch}", flops / n_bytes, ".1f", label)


def codebook(demo: Demo, data: Data, model: nn.Module) -> None:
    """Quantize 2×2 patches of digits to the nearest of a learned codebook: what VQ-VAE does to an encoder's output.

    The codebook is k-means of the training patches; a VQ-VAE learns the same by gradient descent, through the
    straight-through gradient of `fake_quantize` (van den Oord et al., arXiv 1711.00937).
    """
    pixels, _, held_out, _ = data

    def patches(images: Tensor) -> Tensor:
        return images.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 4)

    def from_patches(rows: Tensor) -> Tensor:
        return rows.reshape(-1, 4, 4, 2, 2).transpose(2, 3).reshape(-1, 64)

    rows = []
    for n_codes in (4, 16, 64, 256):
        book = KMeans(n_codes, n_init=1, random_state=0).fit(patches(pixels).numpy())
        tokens = torch.tensor(book.predict(patches(held_out).numpy()), dtype=torch.long)  # 16 per digit
        seen = from_patches(torch.tensor(book.cluster_centers_)[tokens])
        bits, db = math.log2(n_codes) / 4, sqnr(held_out, seen)
        right = accuracy(model, (*data[:2], seen, data[3]))
        rows.append([f"{n_codes} codes of 2×2 pixels", f"{bits:g}", f"{db:.1f}", f"{right:.1%}"])
    demo.number("code_bits", 16 * 4 * bits, ".0f", f"bits of a digit as 16 tokens of {n_codes} codes")
    demo.number("code_db", db, ".1f", f"SQNR in dB of digits from {n_codes} codes")
    seen = fake_quantize(held_out, *choose_qparams(pixels.min(), pixels.max(), n_bits=2), n_bits=2)
    db, right = sqnr(held_out, seen), accuracy(model, (*data[:2], seen, data[3]))
    rows.append(["each pixel on 4 levels", "2", f"{db:.1f}", f"{right:.1%}"])
    demo.number("scalar_db", db, ".1f", "SQNR in dB of digits with each pixel on 4 levels, as many bits")
    demo.table(
        "codebook",
        ["held-out digits as", "bits per pixel", "SQNR, dB", "digits read"],
        rows,
        "Vector quantization: a patch becomes the number of the nearest code. At equal bits it beats rounding each pixel, "
        "since neighbouring pixels are alike.",
    )


def main() -> None:
    """Run everything on one thread."""
    torch.set_num_threads(1)
    demo = Demo(__file__)
    data = digits()
    affine_figure(demo)
    teacher = forms_table(demo, data)
    codebook(demo, data, teacher)
    outliers(demo)
    saturation(demo)
    crossover(demo)
    distillation(demo, data, teacher)
    bottleneck(demo)
    demo.finish()


if __name__ == "__main__":
    main()

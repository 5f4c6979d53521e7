"""The core: each unit alone, with stand-ins for the others, then a run that is stopped and resumed.

Oracles: hand values, one big batch in float64, torch's own AdamW, clipping and schedule, a run that was never stopped.
"""

import ast
import copy
import itertools
import math
import os
from pathlib import Path

import pytest
import torch
from loop_oracles import (
    UNEQUAL,
    Tiny,
    batch,
    big_batch,
    config,
    data,
    files,
    gradient,
    nats,
    plain_run,
    scaler,
    stand_in,
)
from torch import nn

import training_loop
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged
from shared.testing.no_compiler import without_compiler

REFUSED = (ValueError, KeyError)


@pytest.fixture(scope="module", autouse=True)
def no_compiler():
    """The first optimizer imports torch's compiler: 2.7 s, which is longer than all tests of this file."""
    with without_compiler():
        yield


# --- the file -------------------------------------------------------------------------------------------------


@pytest.mark.grades
def test_written_out():
    """Only torch is imported, and its own clipping is not used."""
    assert_imports_only(training_loop, {"torch"})
    tree = ast.parse(Path(training_loop.__file__).read_bytes())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}
    for name in ("clip_grad_norm_", "clip_grad_norm", "clip_grads_with_norm_", "get_total_norm"):
        assert name not in used, f"calls the library instead: {name} does the work that is asked of you"


@pytest.mark.grades
def test_config_is_as_it_was_given():
    """The settings and what they are by default."""
    given = {
        "steps": 9,
        "peak_lr": 0.5,
        "warmup_steps": 0,
        "min_lr": 0.0,
        "weight_decay": 0.1,
        "max_norm": 1.0,
    }
    given |= {"precision": "fp32", "save_every": 100}
    settings = training_loop.Config(steps=9, peak_lr=0.5)
    assert vars(settings) == given, f"Config is not yours to change: {settings}"
    with expect_error(AttributeError, otherwise="Config is not yours to change: it was frozen"):
        settings.steps = 8
    with expect_error(TypeError, otherwise="Config is not yours to change: all settings were named"):
        training_loop.Config(9, 0.5)


# --- warmup_cosine --------------------------------------------------------------------------------------------


def rate(step, warmup_steps=3, total_steps=11, peak_lr=0.8, min_lr=0.1):
    return training_loop.warmup_cosine(step, warmup_steps, total_steps, peak_lr, min_lr)


@pytest.mark.grades("warmup_cosine")
def test_warmup_by_hand():
    """A quarter, a half, three quarters, the whole of the peak."""
    mistakes = {
        "the warmup starts at zero: the first update is wasted": torch.tensor([0, 0.8 / 3, 1.6 / 3, 0.8]),
        "the warmup ends one step early: the peak belongs to step == warmup_steps": torch.tensor(
            [0.8 / 3, 1.6 / 3, 0.8, 0.8]
        ),
        "there is no warmup": torch.tensor([0.8, 0.8, 0.8, 0.8]),
    }
    got = torch.tensor([rate(step) for step in range(4)])
    assert_close(got, torch.tensor([0.2, 0.4, 0.6, 0.8]), what="rates of the first steps", mistakes=mistakes)
    assert isinstance(rate(0), float), f"expected a float, got {type(rate(0)).__name__}"
    assert math.isclose(rate(0, warmup_steps=0), 0.8), "without warmup step 0 has the peak rate"
    assert math.isclose(rate(0, min_lr=0.5), 0.2), (
        "the warmup is held at min_lr: its line knows the peak only"
    )


@pytest.mark.grades("warmup_cosine")
def test_cosine_by_hand():
    """cos of 0, 60, 90, 120 and 180 degrees; the lowest rate for the last step, and it stays."""
    got = [rate(step, warmup_steps=2, total_steps=9) for step in (2, 4, 5, 6, 8)]
    expected = [0.8, 0.1 + 0.7 * 0.75, 0.45, 0.1 + 0.7 * 0.25, 0.1]
    late = [0.1 + 0.35 * (1 + math.cos(math.pi * k / 7)) for k in (0, 2, 3, 4, 6)]
    mistakes = {
        "the last update does not get min_lr: t must be 1 at step total_steps - 1": torch.tensor(late),
        "min_lr is left out": torch.tensor([0.8, 0.6, 0.4, 0.2, 0.0]),
        "a straight line, not a cosine": torch.tensor([0.8, 0.8 - 0.7 / 3, 0.45, 0.1 + 0.7 / 3, 0.1]),
    }
    assert_close(torch.tensor(got), torch.tensor(expected), what="rates after the peak", mistakes=mistakes)
    after = [rate(step) for step in range(10, 25)]
    assert all(math.isclose(r, 0.1) for r in after), (
        f"beyond the last update the rate must stay: a cosine comes up again: {after}"
    )
    rates = [rate(step) for step in range(11)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.21, f"the schedule jumps: {rates}"
    assert math.isclose(rate(4, warmup_steps=4, total_steps=5), 0.8), (
        "where the warmup fills the run, it ends at the peak"
    )
    assert math.isclose(rate(7, warmup_steps=4, total_steps=5), 0.1), (
        "beyond the last step the rate is min_lr"
    )


@pytest.mark.grades("warmup_cosine")
def test_cosine_equals_torch():
    """torch's CosineAnnealingLR gives the same rates after the peak."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.7)
    scheduler, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16, eta_min=0.05), []
    for _ in range(17):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    got = [rate(5 + k, warmup_steps=5, total_steps=22, peak_lr=0.7, min_lr=0.05) for k in range(17)]
    assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-5, what="rates after the peak")


BAD = [{"step": -1}, {"warmup_steps": -1}, {"total_steps": 3}, {"min_lr": 0.9}, {"min_lr": -0.1}]


@pytest.mark.grades("warmup_cosine")
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_schedule_refuses(bad):
    """What cannot be meant is refused."""
    with expect_error(ValueError, otherwise=f"{bad} is accepted"):
        rate(**{"step": 2, **bad})


@pytest.mark.grades("warmup_cosine")
def test_schedule_at_its_bounds():
    """min_lr of 0 or of the peak, a peak of 0, a run of one step: all can be meant."""
    expected = {
        (10, 3, 11, 0.8, 0.0): 0.0,
        (7, 3, 11, 0.8, 0.8): 0.8,
        (2, 3, 11, 0.0, 0.0): 0.0,
        (0, 0, 1, 0.8, 0.1): 0.8,
        (4, 3, 5, 0.8, 0.1): 0.1,
    }
    for (step, warmup, total, peak, low), wanted in expected.items():
        case = f"step {step} of {total}, {warmup} of them warmup, from {peak} down to {low}"
        try:
            got = training_loop.warmup_cosine(step, warmup, total, peak, low)
        except (ValueError, ZeroDivisionError) as error:
            raise AssertionError(f"a schedule that can be meant is refused: {case}: {error}") from error
        assert math.isclose(got, wanted, abs_tol=1e-12), f"{case}: {got}, expected {wanted}"


# --- parameter_groups -----------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding tied to the head, a norm, a convolution, something frozen."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.linear = nn.Linear(6, 7)
        self.conv = nn.Conv1d(7, 6, 3)
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.tokens.weight
        self.again = self.linear
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.grades("parameter_groups")
def test_groups_by_hand():
    """Matrices of linear and convolution layers decay; biases, norms and the embedding do not."""
    model = Tied()
    names = {id(p): name for name, p in model.named_parameters()}
    groups = training_loop.parameter_groups(model, 0.3)
    decayed = [names.get(id(p), "?") for g in groups if g["weight_decay"] for p in g["params"]]
    others = [names.get(id(p), "?") for g in groups if not g["weight_decay"] for p in g["params"]]
    everything = sorted(decayed + others)
    assert len(set(everything)) == len(everything), (
        f"a parameter is in the groups twice: {everything}\ntied weights are one parameter and get one step"
    )
    frozen = [name for name in everything if name.startswith("frozen")]
    assert not frozen, f"frozen parameters are not the optimizer's business: {frozen}"
    biases = [name for name in decayed if name.endswith("bias")]
    assert not biases, f"biases are decayed: {biases}"
    assert "norm.weight" not in decayed, "the gain of a norm is decayed, although its neutral value is 1"
    assert "tokens.weight" not in decayed, (
        "the embedding is decayed: a rare token's row shrinks at every step"
    )
    assert decayed == ["linear.weight", "conv.weight"], f"decayed, in the model's order: {decayed}"
    wanted = ["scale", "tokens.weight", "norm.weight", "norm.bias", "linear.bias", "conv.bias"]
    assert others == wanted, f"without decay, in the model's order: {others}"
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0], "the groups have weight_decay 0.3, then 0.0"


@pytest.mark.grades("parameter_groups")
def test_embedding_behind_another_name():
    """The head is registered first, and still the shared matrix is an embedding."""
    model = nn.Module()
    model.head = nn.Linear(6, 11, bias=False)
    model.tokens = nn.Embedding(11, 6)
    model.tokens.weight = model.head.weight
    decay, rest = training_loop.parameter_groups(model, 0.3)
    assert (len(decay["params"]), len(rest["params"])) == (0, 1), (
        "a matrix that an embedding shares is decayed: look at what the embeddings hold, not at names"
    )


class Table(nn.Embedding):
    """An embedding by another name."""


class Misleading(nn.Module):
    """Embeddings inside of other modules; matrices with names of biases, norms, embeddings, and one of an embedding's shape."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"lookup": nn.Embedding(5, 4), "deeper": nn.Sequential(Table(7, 4))})
        self.embedding_norm = nn.Linear(4, 5)
        self.bias = nn.Parameter(torch.ones(3, 4))
        self.weight = nn.Parameter(torch.ones(4))


@pytest.mark.grades("parameter_groups")
def test_names_mean_nothing():
    """Axes and embeddings decide; neither names, nor shapes, nor in which module a matrix is."""
    model = Misleading()
    names = {id(p): name for name, p in model.named_parameters()}
    decay, rest = ([names[id(p)] for p in g["params"]] for g in training_loop.parameter_groups(model, 0.3))
    hidden = [name for name in decay if name.startswith("inner")]
    assert not hidden, f"decayed, although an embedding in another module holds them: {hidden}"
    matrices = ["bias", "embedding_norm.weight"]
    assert decay == matrices, f"decayed: {decay}; the matrices are {matrices}: do names or shapes decide?"
    others = ["weight", "inner.lookup.weight", "inner.deeper.0.weight", "embedding_norm.bias"]
    assert rest == others, f"without decay: {rest}, expected {others}"


# --- clip_gradients -------------------------------------------------------------------------------------------


def with_gradients(*gradients):
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    return parameters


@pytest.mark.grades("clip_gradients")
def test_clip_by_hand():
    """Gradients (3, 0) and (4): their joint norm is 5, clipped to 1 they are (0.6, 0) and (0.8)."""
    parameters = with_gradients(torch.tensor([3.0, 0.0]), torch.tensor([4.0]))
    norm = training_loop.clip_gradients(parameters, 1.0)
    mistakes = {
        "each parameter is clipped by its own norm: the direction of the step changes": [1.0, 0.0, 1.0],
        "the gradients are not clipped": [3.0, 0.0, 4.0],
        "divided by the squared norm: take the root": [3 / 25, 0.0, 4 / 25],
    }
    assert_close(
        torch.cat([p.grad for p in parameters]),
        torch.tensor([0.6, 0.0, 0.8]),
        rtol=1e-5,
        what="clipped gradients",
        mistakes={text: torch.tensor(value) for text, value in mistakes.items()},
    )
    mistakes = {"the norm after clipping is returned; the one before is what a plot needs": torch.tensor(1.0)}
    assert_close(norm, torch.tensor(5.0), rtol=1e-6, what="returned norm", mistakes=mistakes)


@pytest.mark.grades("clip_gradients")
def test_clip_leaves_small_gradients_alone():
    """Below the limit nothing changes, not by one bit; inf only measures."""
    gradients = [torch.tensor([0.3, -0.4]), torch.tensor([[0.5]])]
    for limit in (0.8, float("inf")):
        parameters = with_gradients(*gradients)
        training_loop.clip_gradients(parameters, limit)
        for p, g in zip(parameters, gradients, strict=True):
            assert torch.equal(p.grad, g), f"norm 0.707, limit {limit}: small gradients are scaled up or down"
    (parameter,) = with_gradients(torch.tensor([3.0, 4.0]))
    training_loop.clip_gradients([parameter], 5.0)
    assert parameter.grad.tolist() == [3.0, 4.0], (
        f"norm 5, limit 5: the gradient is changed to {parameter.grad.tolist()}; no small number is added to the norm"
    )


@pytest.mark.grades("clip_gradients")
def test_clip_nothing_and_to_nothing():
    """Without any gradient the norm is 0; a limit of 0 leaves nothing."""
    for parameters in ([], [nn.Parameter(torch.ones(2))]):
        try:
            norm = training_loop.clip_gradients(parameters, 1.0)
        except (RuntimeError, ValueError, IndexError, StopIteration) as error:
            if isinstance(error, NotImplementedError):
                raise
            raise AssertionError(f"without any gradient the norm is 0, got {error!r}") from error
        assert isinstance(norm, torch.Tensor), f"without any gradient: a {type(norm).__name__}, not a tensor"
        assert norm.item() == 0, f"without any gradient the norm is 0, got {norm.item()}"
    (parameter,) = with_gradients(torch.tensor([3.0, 4.0]))
    training_loop.clip_gradients([parameter], 0.0)
    assert not parameter.grad.any(), f"a limit of 0 leaves gradients of {parameter.grad.tolist()}"


@pytest.mark.grades("clip_gradients")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("max_norm", [0.25, 2.0, 100.0])
def test_clip_equals_torch(dtype, max_norm, generator):
    """The same as torch's own clipping, over several shapes, from an iterator; without gradient: passed over."""
    gradients = [torch.randn(s, generator=generator, dtype=dtype) for s in [(3, 4), (5,), (), (2, 1, 3)]]
    ours, theirs = with_gradients(*gradients), with_gradients(*gradients)
    norm = training_loop.clip_gradients((p for p in [nn.Parameter(torch.zeros(3)), *ours]), max_norm)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm)
    assert_close(norm, expected, rtol=1e-5, what="norm")
    flat = [torch.cat([p.grad.flatten() for p in side]) for side in (ours, theirs)]
    assert_close(flat[0], flat[1], rtol=1e-5, what="clipped gradients")  # torch adds 1e-6 to the norm


@pytest.mark.grades("clip_gradients")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_clip_not_finite(bad):
    """A gradient that is not finite: the norm says so, and the other gradients stay."""
    first, second = torch.tensor([3.0, bad]), torch.tensor([4.0])
    parameters = with_gradients(first, second)
    norm = training_loop.clip_gradients(parameters, 1.0)
    assert not math.isfinite(norm), f"the norm is {norm}, although a gradient is {bad}"
    same = torch.equal(parameters[1].grad, second) and parameters[0].grad[0] == 3
    assert same, f"a gradient of {bad} changed the others: {parameters[1].grad.tolist()}"


# --- token_loss -----------------------------------------------------------------------------------------------


@pytest.mark.grades("token_loss")
def test_loss_by_hand():
    """Probabilities 1/8, 2/8, 5/8, targets 2, ignored, 0: log(8/5) + log(8)."""
    logits = torch.log(torch.tensor([[[1.0, 2.0, 5.0], [5.0, 2.0, 1.0], [10.0, 20.0, 50.0]]]).double())
    targets = torch.tensor([[2, -100, 0]])
    expected = math.log(8 / 5) + math.log(8)
    mistakes = {
        "the mean, not the sum": expected / 2,
        "targets of -100 count": expected + math.log(8 / 5),
        "the sum is divided by all targets": expected / 3,
        "the logarithm is to base 2": expected / math.log(2),
    }
    got = training_loop.token_loss(logits, targets)
    assert_close(
        got,
        torch.tensor(expected, dtype=torch.float64),
        what="loss",
        mistakes={text: torch.tensor(value).double() for text, value in mistakes.items()},
    )
    flat = training_loop.token_loss(logits[0], targets[0])
    assert_close(flat, got, what="loss of logits (3, classes)")
    deep = training_loop.token_loss(logits[None], targets[None])
    assert_close(deep, got, what="loss of logits (1, 1, 3, classes)")
    none = training_loop.token_loss(logits, torch.full((1, 3), -100))
    assert none.item() == 0, f"without a valid target the sum is 0, got {none.item()}"


@pytest.mark.grades("token_loss")
def test_loss_of_other_logits(generator):
    """Logits (B, C, T) turned to (B, T, C), so not contiguous; and -inf where the target does not count."""
    logits = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64).mT
    targets = torch.randint(0, 7, (4, 3), generator=generator).T
    targets[1, 2] = -100
    rows = torch.stack([logits[b, t] for b in range(3) for t in range(4) if (b, t) != (1, 2)])
    wanted = torch.tensor([targets[b, t] for b in range(3) for t in range(4) if (b, t) != (1, 2)])
    expected = nn.functional.cross_entropy(rows, wanted, reduction="sum")
    try:
        got = training_loop.token_loss(logits, targets)
    except RuntimeError as error:
        if isinstance(error, NotImplementedError):
            raise
        raise AssertionError(f"logits that are not contiguous are refused: {error}") from error
    assert_close(got, expected, n=11, what="loss of logits that are not contiguous")
    logits[1, 2] = -math.inf
    got = training_loop.token_loss(logits, targets)
    hint = "what does not count is left out, not multiplied by 0: 0·inf is NaN"
    assert_close(got, expected, n=11, what="loss with -inf where the target is -100", hint=hint)


@pytest.mark.grades("token_loss")
def test_loss_of_large_logits():
    """Logits of 1e4: exp of them overflows, the loss does not."""
    logits = torch.tensor([[1e4, 0.0, -1e4], [-3e4, 0.0, 1.0]])
    got = training_loop.token_loss(logits, torch.tensor([1, 0]))
    hint = "log(softmax) overflows: use log_softmax or cross_entropy"
    expected = torch.tensor(1e4 + 3e4 + math.log(1 + math.e))
    assert_close(got, expected, rtol=1e-6, what="loss of logits of 1e4", hint=hint)


@pytest.mark.grades("token_loss")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_loss_is_summed_in_float32(dtype, generator):
    """2000 targets: a sum in 16 bits would stop growing."""
    logits = torch.randn(40, 50, 9, generator=generator).to(dtype)
    targets = torch.randint(0, 9, (40, 50), generator=generator)
    wide = logits.double().flatten(0, 1)
    expected = nn.functional.cross_entropy(wide, targets.flatten(), reduction="sum")
    with unchanged(logits, targets):
        got = training_loop.token_loss(logits, targets)
    hint = "convert half-precision logits to float32 first"
    assert_close(got, expected, dtype=torch.float32, n=2000, what=f"loss of {dtype} logits", hint=hint)


@pytest.mark.grades("token_loss")
def test_loss_gradient(generator):
    """By the logits it is softmax minus one-hot, and zero where the target does not count."""
    logits = torch.randn(4, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 7, (4, 5), generator=generator)
    targets[1, 2:] = -100
    training_loop.token_loss(logits, targets).backward()
    expected = logits.detach().softmax(-1) - nn.functional.one_hot(targets.clamp(min=0), 7)
    expected[targets == -100] = 0
    assert_close(logits.grad, expected, what="gradient by the logits")


# --- accumulate_gradients -------------------------------------------------------------------------------------


def mean_of_means(batches):
    model = Tiny()
    losses = [nats(model, [b]).mean() for b in batches if (b[1] != -100).any()]
    (sum(losses) / len(batches)).backward()
    return gradient(model)


@pytest.mark.grades("accumulate_gradients")
@pytest.mark.parametrize("n", [1, 2, 4])
def test_micro_batches_equal_one_big_batch(n, monkeypatch):
    """Micro-batches with 15, 2, 0 and 7 valid targets: gradient and loss of one big batch, to rounding."""
    accumulate = stand_in(monkeypatch, "accumulate_gradients")
    batches, model, seen = UNEQUAL[:n], Tiny(), []
    model.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    loss, expected = big_batch(batches)
    got = accumulate(model, batches, scaler(), "fp32")
    n_tokens = sum(int((y != -100).sum()) for _, y in batches)
    mistakes = {
        "the loss is the sum over all tokens: divide by their number": expected * n_tokens,
        "divided by all targets, those of -100 too": expected * n_tokens / sum(y.numel() for _, y in batches),
    }
    if n > 1:
        last = big_batch(batches[-1:])[1] * int((batches[-1][1] != -100).sum()) / n_tokens
        averaged = mean_of_means(batches)
        mistakes["micro-batches are averaged: a token in a short one weighs more than one in a long one"] = (
            averaged
        )
        mistakes["the gradients are summed over micro-batches, not divided by the tokens of all"] = (
            averaged * n
        )
        mistakes["only the last micro-batch counts"] = last
    assert_close(gradient(model), expected, rtol=1e-12, what="gradient", mistakes=mistakes)
    assert isinstance(got, float), f"the loss must be a float, got {type(got).__name__}"
    assert_close(got, loss, rtol=1e-6, what="loss")
    assert set(seen) <= {x.shape for x, _ in batches}, (
        f"the model saw {[tuple(s) for s in seen]}: each micro-batch by itself, or nothing is saved"
    )


@pytest.mark.grades("accumulate_gradients")
def test_gradients_are_added(monkeypatch):
    """What is in .grad stays there."""
    accumulate = stand_in(monkeypatch, "accumulate_gradients")
    model = Tiny()
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.25)
    accumulate(model, UNEQUAL, scaler(), "fp32")
    expected = big_batch(UNEQUAL)[1] + 0.25
    assert_close(gradient(model), expected, rtol=1e-12, what="gradient", hint="add to .grad, do not clear it")


@pytest.mark.grades("accumulate_gradients")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precision_is_used(precision, monkeypatch):
    """The products are in that type; weights and gradients stay float32; the scaler's factor is in the gradient only."""
    accumulate = stand_in(monkeypatch, "accumulate_gradients")
    model, seen = Tiny(dtype=torch.float32), []
    model.back.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    loss, expected = big_batch(UNEQUAL)
    factor = 1024.0 if precision == "fp16" else 1.0
    got = accumulate(model, UNEQUAL, scaler(precision == "fp16", init_scale=1024.0), precision)
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert set(seen) == {wanted}, f"precision={precision}: a linear layer computed in {set(seen)}"
    dtypes = {tensor.dtype for p in model.parameters() for tensor in (p, p.grad)}
    assert dtypes == {torch.float32}, f"master weights and gradients are float32, not {dtypes}"
    error = (gradient(model).double() / factor - expected).norm() / expected.norm()
    limit = {"fp32": 1e-5, "bf16": 0.05, "fp16": 0.01}[precision]
    assert error < limit, (
        f"{precision}: the gradient is off by {error:.2g}: is it {factor:g} times the true one?"
    )
    assert math.isclose(got, loss, rel_tol=limit), f"the loss is {got}, expected {loss} without the factor"


@pytest.mark.grades("accumulate_gradients")
@pytest.mark.parametrize("training", [True, False])
def test_one_graph_at_a_time(training, monkeypatch):
    """A micro-batch has gone backward before the next goes forward, and the model's mode stays as it is."""
    accumulate = stand_in(monkeypatch, "accumulate_gradients")
    model, seen, modes = Tiny().train(training), [], []

    def forward(module, args, out):
        seen.append("forward")
        modes.append(module.training)
        out.register_hook(lambda g: seen.append("backward"))

    model.register_forward_hook(forward)
    accumulate(model, UNEQUAL[:2], scaler(), "fp32")
    assert set(modes) == {model.training} == {training}, "whether dropout is on is for the caller to say"
    assert seen == ["forward", "backward"] * 2, (
        f"{', '.join(seen)}: all graphs are kept until the end, which saves no memory: one backward per micro-batch"
    )


@pytest.mark.grades("accumulate_gradients")
def test_accumulation_refuses(monkeypatch):
    """No valid target at all; a precision that does not exist."""
    accumulate = stand_in(monkeypatch, "accumulate_gradients")
    with expect_error(ValueError, otherwise="a batch without valid targets is accepted"):
        accumulate(Tiny(), [batch(1, valid=0), batch(2, valid=0)], scaler(), "fp32")
    for name in ("fp8", "BF16", "", "float16"):
        with expect_error(REFUSED, otherwise=f"precision={name!r} is accepted"):
            accumulate(Tiny(), UNEQUAL, scaler(), name)


# --- training_step --------------------------------------------------------------------------------------------


def adamw(model, weight_decay=0.3):
    decay = [model.hidden.weight, model.back.weight]
    rest = [p for p in model.parameters() if all(p is not d for d in decay)]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=9.0, betas=(0.9, 0.95))


def cleared(model):
    return all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.grades("training_step")
def test_steps_equal_plain_adamw(monkeypatch):
    """Four steps with four rates equal torch's AdamW on one big batch, clipped by torch."""
    step = stand_in(monkeypatch, "training_step")
    model, twin = Tiny(), Tiny()
    optimizer, plain = adamw(model), adamw(twin)
    for number, lr in enumerate((0.02, 0.05, 0.01, 0.03)):
        loss, norm = step(model, optimizer, scaler(), data(number), lr, config(max_norm=0.5))
        for group in plain.param_groups:
            group["lr"] = lr
        plain.zero_grad()
        expected, unclipped = big_batch(data(number), twin)
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        plain.step()
        assert math.isclose(loss, expected, rel_tol=1e-6), (
            f"step {number + 1}: loss {loss}, torch's AdamW has {expected}: an earlier step differs. "
            "Is the gradient clipped? Is the rate set in all groups?"
        )
        assert math.isclose(norm, unclipped.norm().item(), rel_tol=1e-6), (
            f"step {number + 1}: the norm before clipping is {norm}, expected {unclipped.norm().item()}: "
            "are gradients cleared after the step, and not before?"
        )
        assert cleared(model), "the gradients are not cleared at the end of a step: they add up"
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert_close(ours, theirs, rtol=1e-6, what=f"{name} after four steps")


@pytest.mark.grades("training_step")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_step_that_is_not_finite(precision, bad, monkeypatch):
    """NaN or inf in one gradient: weights and optimizer stay as they are, and the next step is a good one."""
    step = stand_in(monkeypatch, "training_step")
    model, factor = Tiny(dtype=torch.float32), scaler(precision == "fp16", init_scale=1024.0)
    optimizer, settings = adamw(model), config(precision=precision)
    step(model, optimizer, factor, data(0), 0.01, settings)
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()["state"]])
    hook = model.hidden.bias.register_hook(lambda g: torch.full_like(g, bad))
    _, norm = step(model, optimizer, factor, data(1), 0.01, settings)
    hook.remove()
    assert all(p.isfinite().all() for p in model.parameters()), f"a gradient of {bad} reached the weights"
    assert not math.isfinite(norm), f"the norm of a gradient with {bad} in it is reported as {norm}"
    assert all(torch.equal(p, before[0][name]) for name, p in model.named_parameters()), (
        "a step that is not finite moved the weights"
    )
    moments = optimizer.state_dict()["state"]
    same = all(torch.equal(moments[k][name], v[name]) for k, v in before[1].items() for name in v)
    assert same, "a step that is not finite moved the optimizer's state"
    assert cleared(model), "the bad gradient stays around"
    if precision == "fp16":
        assert factor.get_scale() == 512, (
            f"the scaler must halve its factor, 1024: it is {factor.get_scale()}"
        )
    _, norm = step(model, optimizer, factor, data(2), 0.01, settings)
    assert math.isfinite(norm), "the step after a bad one is not finite"
    assert not torch.equal(model.hidden.weight, before[0]["hidden.weight"]), "no step is made after a bad one"


@pytest.mark.grades("training_step")
def test_clipping_comes_after_unscaling(monkeypatch):
    """With fp16 the norm and the limit are those of the true gradient, not of one scaled by 1024."""
    step = stand_in(monkeypatch, "training_step")
    true = big_batch(UNEQUAL)[1].norm().item()
    model, seen = Tiny(dtype=torch.float32), []
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    optimizer.register_step_pre_hook(lambda *args: seen.append(gradient(model).norm().item()))
    dtypes, modes = set(), set()
    model.back.register_forward_hook(lambda module, args, out: dtypes.add(out.dtype))
    model.register_forward_pre_hook(lambda module, args: modes.add(module.training))
    factor = scaler(True, init_scale=1024.0)
    _, norm = step(model, optimizer, factor, UNEQUAL, 0.01, config(max_norm=true / 2, precision="fp16"))
    assert norm < 100 * true, (
        f"clipping before unscaling: the norm {norm:.3g} is that of the scaled gradient, true {true:.3g}"
    )
    assert math.isclose(norm, true, rel_tol=0.02), f"norm {norm}, expected {true}"
    assert dtypes == {torch.float16}, f"config.precision is fp16, the products are in {dtypes}"
    assert modes == {model.training} == {True}, "a step changes the model's mode: dropout would be off"
    assert seen, "the optimizer did not step"
    assert math.isclose(seen[0], true / 2, rel_tol=0.02), (
        f"the optimizer saw a gradient of norm {seen[0]:.3g}, the limit is {true / 2:.3g}"
    )
    assert factor.state_dict()["_growth_tracker"] == 1, "the scaler must be updated once after each step"


# --- evaluate -------------------------------------------------------------------------------------------------


@pytest.mark.grades("evaluate")
def test_evaluation_weighs_tokens(monkeypatch):
    """The mean over all valid targets, however they are cut into batches; an iterator will do."""
    evaluate = stand_in(monkeypatch, "evaluate")
    model = Tiny(dropout=0.4)
    with torch.no_grad():
        scores = [nats(model.eval(), [b]) for b in UNEQUAL]
    model.train()
    expected, full = torch.cat(scores).mean().item(), [s for s in scores if len(s)]
    mistakes = {
        "averaged over batches: weigh by their numbers of tokens": torch.stack(
            [s.mean() for s in full]
        ).mean(),
        "divided by all targets, those of -100 too": sum(s.sum() for s in scores)
        / sum(y.numel() for _, y in UNEQUAL),
        "in bits, not nats": expected / math.log(2),
        "the sum, not the mean": torch.cat(scores).sum(),
    }
    got = evaluate(model, iter(UNEQUAL))
    assert isinstance(got, float), f"expected a float, got {type(got).__name__}"
    assert not math.isnan(got), "a batch without valid targets gives 0/0: add up sums and counts, divide once"
    hint = "is dropout off (eval mode) and every batch used?"
    assert_close(got, expected, rtol=1e-6, what="loss", mistakes=mistakes, hint=hint)
    model, dtypes = Tiny(dtype=torch.float32), set()
    model.back.register_forward_hook(lambda module, args, out: dtypes.add(out.dtype))
    evaluate(model, UNEQUAL)
    assert dtypes == {torch.float32}, f"a float32 model is evaluated in float32, not in {dtypes}"


@pytest.mark.grades("evaluate")
def test_evaluation_of_nothing(monkeypatch):
    """Without any valid target there is no mean: an error or NaN."""
    evaluate = stand_in(monkeypatch, "evaluate")
    for batches in ([batch(1, valid=0)], []):
        try:
            got = evaluate(Tiny(), batches)
        except (ValueError, ZeroDivisionError):
            continue
        assert math.isnan(got), (
            f"no valid target, and a loss of {got}: the best model of all would be no data"
        )


@pytest.mark.grades("evaluate")
def test_evaluation_restores_the_mode(monkeypatch):
    """Train stays train, eval stays eval, a frozen submodule keeps its own mode, also after an error; no gradients."""
    evaluate = stand_in(monkeypatch, "evaluate")
    for training in (True, False):
        model = Tiny(dropout=0.4).train(training)
        model.hidden.train(not training)
        evaluate(model, UNEQUAL)
        mode = "train" if training else "eval"
        assert model.training == model.dropout.training == training, (
            f"the model was in {mode} mode before the evaluation, not after it"
        )
        assert model.hidden.training != training, (
            "a submodule that was in a mode of its own is in that of the model afterwards"
        )
    model = Tiny().train()
    graphs = []
    model.register_forward_hook(lambda module, args, out: graphs.append(out.requires_grad))
    evaluate(model, UNEQUAL)
    assert not any(graphs), "an evaluation needs no gradients: torch.no_grad"
    model.head = None
    with pytest.raises(TypeError):
        evaluate(model, UNEQUAL)
    assert model.training, "after an error the model stays in eval mode: use finally"


# --- checkpoints ----------------------------------------------------------------------------------------------


def training(seed=0, steps=2, enabled=True):
    """A model, its optimizer and its scaler after some steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 + seed, weight_decay=0.2 + seed)
    factor = scaler(enabled, init_scale=64.0)
    for _ in range(steps):
        factor.scale(model(torch.randn(4, 3)).square().mean()).backward()
        factor.step(optimizer)
        factor.update()
        optimizer.zero_grad()
    return model, optimizer, factor


def same(a, b):
    """Whether two states are equal, tensor by tensor."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.grades("save_checkpoint")
def test_checkpoint_is_plain_data(tmp_path):
    """It can be read with weights_only=True."""
    path = str(tmp_path / "a.pt")
    training_loop.save_checkpoint(path, 3, *training())
    try:
        torch.load(path, weights_only=True)
    except Exception as error:
        raise AssertionError(
            f"holds more than data: torch.load with weights_only=True says {error}"
        ) from error


@pytest.mark.grades("save_checkpoint", "load_checkpoint")
@pytest.mark.parametrize("enabled", [True, False])
def test_everything_comes_back(enabled, tmp_path):
    """Step, weights and buffers, optimizer with its settings, scaler, random state, into objects that had others; no other file."""
    path = str(tmp_path / "a.pt")
    parts = training(enabled=enabled)
    if enabled:
        parts[2].update(16.0)
    states = copy.deepcopy([part.state_dict() for part in parts])
    training_loop.save_checkpoint(path, 7, *parts)
    drawn = torch.rand(5)
    others = training(seed=1, steps=5, enabled=enabled)
    step = training_loop.load_checkpoint(path, *others)
    assert step == 7, f"saved at step 7, loaded as {step}"
    assert isinstance(step, int), f"the step must be an int, got {type(step).__name__}"
    assert torch.equal(torch.rand(5), drawn), "the random state is not restored: dropout would differ"
    for name, part, state in zip(("model", "optimizer", "scaler"), others, states, strict=True):
        assert same(part.state_dict(), state), f"the {name} after loading: not the state that was saved"
    assert files(tmp_path) == ["a.pt"], f"left in the folder: {files(tmp_path)}"
    training_loop.save_checkpoint(path, 8, *others)
    assert training_loop.load_checkpoint(path, *parts) == 8, "the newer checkpoint must replace the older one"


@pytest.mark.grades("save_checkpoint", "load_checkpoint")
def test_random_state_of_cuda(tmp_path, monkeypatch):
    """A generator that stands for that of a CUDA device goes on where it was."""
    parts, generator = training(), torch.Generator().manual_seed(4)
    functions = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_rng_state": lambda *device, **named: generator.get_state(),
        "get_rng_state_all": lambda: [generator.get_state()],
        "set_rng_state": lambda state, *device, **named: generator.set_state(state),
        "set_rng_state_all": lambda states: [generator.set_state(state) for state in states],
    }
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)
    training_loop.save_checkpoint(str(tmp_path / "a.pt"), 1, *parts)
    drawn = torch.rand(5, generator=generator)
    training_loop.load_checkpoint(str(tmp_path / "a.pt"), *parts)
    again = torch.rand(5, generator=generator)
    assert torch.equal(again, drawn), "the random state of CUDA is not restored: dropout there would differ"


@pytest.mark.grades("save_checkpoint")
def test_order_of_system_calls(tmp_path, monkeypatch):
    """Write under another name in the same folder, force to the disk, rename: in this order."""
    calls, kept = [], []

    def spy(name):
        original = getattr(os, name)

        def call(*args, **kwargs):
            calls.append((name, max(p.stat().st_size for p in tmp_path.iterdir())))
            kept.append(path.exists() and path.read_bytes() == b"the old one")
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    model = nn.Linear(100, 70)
    parts = model, torch.optim.AdamW(model.parameters()), scaler()
    path = tmp_path / "a.pt"
    path.write_bytes(b"the old one")
    for name in ("fsync", "replace", "rename"):
        spy(name)
    training_loop.save_checkpoint(str(path), 1, *parts)
    names = [name for name, _ in calls]
    renames = [k for k, name in enumerate(names) if name in ("replace", "rename")]
    assert renames, (
        "the file is written in place: a crash leaves half of it; write to another name, then rename"
    )
    assert all(kept[: renames[0] + 1]), (
        "the old file is gone before the new one has its name: if the machine stops there, there is none"
    )
    synced = [size == path.stat().st_size for name, size in calls[: renames[0]] if name == "fsync"]
    assert synced, (
        f"no fsync before the rename: after a power cut the name may point to half a file ({names})"
    )
    assert synced[-1], "fsync before everything is written: flush Python's buffer first"


@pytest.mark.grades("save_checkpoint")
def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    """The disk is full in the middle: the old file is as it was."""
    path, parts = tmp_path / "a.pt", training()
    training_loop.save_checkpoint(str(path), 1, *parts)
    content = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        training_loop.save_checkpoint(str(path), 2, *parts)
    assert path.read_bytes() == content, (
        "the old checkpoint is gone although the new one could not be written"
    )


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.grades("load_checkpoint")
def test_loading_runs_no_code(tmp_path):
    """A file that would make a folder when it is unpickled is refused, and makes none."""
    path, trap = str(tmp_path / "a.pt"), tmp_path / "trap"
    torch.save({"step": 1, "model": _Attack(str(trap))}, path)
    refused = False
    try:
        training_loop.load_checkpoint(path, *training())
    except NotImplementedError:
        raise
    except Exception:
        refused = True
    assert not trap.exists(), "loading the file ran its code: os.mkdir was called; use weights_only=True"
    assert refused, "a file that holds a program is accepted"


@pytest.mark.grades("save_checkpoint", "load_checkpoint")
def test_checkpoint_of_another_model(tmp_path):
    """The same shapes under other names are another model."""
    path, (model, *others) = str(tmp_path / "a.pt"), training(seed=1)
    training_loop.save_checkpoint(path, 3, *training())
    try:
        training_loop.load_checkpoint(path, nn.Sequential(model), *others)
    except NotImplementedError:
        raise
    except Exception:
        return
    raise AssertionError("weights of other names are passed over in silence: the model stays as it was")


# --- train ----------------------------------------------------------------------------------------------------


@pytest.mark.grades("train")
def test_run_equals_the_textbook(monkeypatch):
    """Seven steps on two micro-batches each: rates, losses and weights of plain AdamW on one big batch."""
    train = stand_in(monkeypatch, "train")
    for settings in (config(max_norm=0.3, weight_decay=0.4), training_loop.Config(steps=5, peak_lr=0.03)):
        model, twin, asked, modes = Tiny().eval(), Tiny(), [], []
        model.register_forward_pre_hook(lambda module, args, modes=modes: modes.append(module.training))
        records = train(model, lambda step, asked=asked: (asked.append(step), data(step))[1], settings)
        losses = plain_run(twin, data, settings)
        n = settings.steps
        assert [r["step"] for r in records] == list(range(1, n + 1)), (
            f"one record per step, from 1: {records}"
        )
        assert sorted(set(asked)) == list(range(n)), f"the data of steps 0 to {n - 1} are needed, got {asked}"
        if n == 7:
            rates = torch.tensor([r["lr"] for r in records])
            expected = torch.tensor([0.02 / 3, 0.04 / 3, 0.02, 0.01736396, 0.011, 0.00463604, 0.002])
            assert_close(
                rates, expected, rtol=1e-5, what="rates", hint="warmup_cosine of the steps made before"
            )
        for number, (record, loss) in enumerate(zip(records, losses, strict=True), start=1):
            assert math.isclose(record["loss"], loss, rel_tol=1e-6), (
                f"step {number}: loss {record['loss']}, plain AdamW has {loss}: an earlier step differs. "
                "Betas (0.9, 0.95), decay groups, clipping, rate?"
            )
            assert math.isfinite(record["norm"]), f"step {number}: norm {record['norm']}"
            assert "val_loss" not in record, "there was nothing to evaluate"
        for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert_close(ours, theirs, rtol=1e-6, what=f"{name} after the run")
        assert all(modes), "a run trains in training mode: dropout would be off"


@pytest.mark.grades("train")
def test_evaluations_and_checkpoints(tmp_path, monkeypatch):
    """Every save_every steps and after the last; evaluating changes nothing in the run."""
    train, saved = stand_in(monkeypatch, "train"), []
    save = training_loop.save_checkpoint

    def spy(path, step, *parts, **named):
        saved.append(step)
        save(path, step, *parts, **named)

    monkeypatch.setattr(training_loop, "save_checkpoint", spy)
    runs = []
    for val_batches in ((), UNEQUAL):
        torch.manual_seed(3)
        runs.append(Tiny(dropout=0.3))
        path = str(tmp_path / f"{len(val_batches)}.pt")
        records = train(runs[-1], data, config(), val_batches=val_batches, checkpoint=path)
    when = [r["step"] for r in records if "val_loss" in r]
    assert when == [3, 6, 7], f"7 steps, save_every=3: evaluated after steps {when}, expected 3, 6 and 7"
    with torch.no_grad():
        expected = nats(runs[-1].eval(), UNEQUAL).mean().item()
    assert_close(records[-1]["val_loss"], expected, rtol=1e-6, what="the last val_loss")
    assert all(map(torch.equal, *(model.parameters() for model in runs))), "evaluating changes the training"
    if saved:  # an answer may write its checkpoints without the function
        assert saved == [3, 6, 7] * 2, f"written after steps {saved}, expected 3, 6, 7"
    assert Path(path).exists(), "no checkpoint is written after the last step"
    again = train(Tiny(), data, config(), checkpoint=path)
    assert not again, (
        f"a run that has ended has no steps to make, it made {len(again)}: is the checkpoint loaded?"
    )


@pytest.mark.grades("train")
def test_evaluates_without_a_checkpoint(tmp_path, monkeypatch):
    """Validation batches and no file: evaluated all the same, and nothing is written."""
    train = stand_in(monkeypatch, "train")
    monkeypatch.chdir(tmp_path)
    records = train(Tiny(), data, config(), val_batches=UNEQUAL)
    when = [r["step"] for r in records if "val_loss" in r]
    assert when == [3, 6, 7], f"val_batches without a checkpoint: evaluated after steps {when}, not 3, 6, 7"
    assert not files(tmp_path), f"no checkpoint is asked for, written were {files(tmp_path)}"


class Faint(nn.Module):
    """A model whose logits are 1e9 times too small, so that its gradients vanish in float16."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(13, 6), nn.Linear(6, 13)

    def forward(self, tokens):
        return self.head(self.tokens(tokens)).float() * 1e-9


@pytest.mark.grades("train")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_scaler_of_a_run(precision, monkeypatch):
    """With fp16 a gradient of 1e-10 survives, because it is scaled; with the others nothing is scaled."""
    train, seen = stand_in(monkeypatch, "train"), []
    step = training_loop.training_step

    def spy(model, optimizer, scaler, *rest, **named):
        seen.append(scaler.is_enabled())
        return step(model, optimizer, scaler, *rest, **named)

    monkeypatch.setattr(training_loop, "training_step", spy)
    torch.manual_seed(0)
    records = train(Faint(), data, config(steps=3, precision=precision))
    for record in records:
        assert record["norm"] > 0, (
            f"{precision}: the norm is {record['norm']}: small gradients vanish unless the scaler is enabled"
        )
    assert set(seen) <= {precision == "fp16"}, f"{precision}: the scaler is enabled for fp16 only"


@pytest.mark.grades("train")
def test_dropout_is_drawn_anew(monkeypatch):
    """No two steps drop the same units, and two runs do not either."""
    train, kept = stand_in(monkeypatch, "train"), []
    for seed in (3, 4):
        torch.manual_seed(seed)
        model = Tiny(dropout=0.5)
        model.dropout.register_forward_hook(lambda module, args, out: kept.append((out != 0)[:2].flatten()))
        train(model, lambda step: data(step)[:1], config(steps=3))
    masks = {tuple(mask.tolist()) for mask in kept}
    assert len(masks) == len(kept) == 6, (
        f"{len(kept)} steps with dropout, {len(masks)} patterns: is the random generator seeded in the run?"
    )


class _Stop(Exception):
    pass


@pytest.fixture(scope="module")
def whole_runs():
    """What a run without a stop gave, by precision."""
    return {}


def stopped_run(train, stop, path, settings):
    """Train until step `stop` asks for its data, then again from the checkpoint in a new model."""

    def until(step):
        if step == stop:
            raise _Stop
        return data(step)

    torch.manual_seed(3)
    with pytest.raises(_Stop):
        train(Tiny(dropout=0.3, dtype=torch.float32), until, settings, checkpoint=path)
    torch.manual_seed(99)  # another process has another random state
    model = Tiny(dropout=0.3, dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    return model, train(model, data, settings, checkpoint=path)


@pytest.mark.grades("train")
@pytest.mark.parametrize(("precision", "stop"), [("fp32", 5), ("fp32", 6), ("fp16", 4)])
def test_stopped_and_resumed(precision, stop, tmp_path, monkeypatch, whole_runs):
    """Bitwise the weights of the run that was never stopped, with dropout."""
    train = stand_in(monkeypatch, "train")
    settings = config(precision=precision)
    if precision not in whole_runs:
        torch.manual_seed(3)
        model = Tiny(dropout=0.3, dtype=torch.float32)
        whole_runs[precision] = model, train(model, data, settings)
    whole, records = whole_runs[precision]
    model, resumed = stopped_run(train, stop, str(tmp_path / "a.pt"), settings)
    first = 4 if stop < 6 else 7
    assert [r["step"] for r in resumed] == list(range(first, 8)), (
        f"stopped in step {stop + 1}, the last checkpoint is of step {first - 1}: "
        f"steps {first} to 7 are left, it made {[r['step'] for r in resumed]}"
    )
    for ours, theirs in zip(resumed, records[first - 1 :], strict=True):
        equal = all(ours[key] == theirs[key] for key in ("step", "lr", "loss", "norm"))
        assert equal, f"the first difference is at step {ours['step']}: {ours}, not stopped {theirs}"
    assert all(map(torch.equal, model.parameters(), whole.parameters())), "the weights differ after resuming"


@pytest.mark.grades("train")
def test_bad_step_in_a_run(monkeypatch):
    """A step whose gradient is not finite is a step all the same: recorded, and the run goes on."""
    train = stand_in(monkeypatch, "train")
    model = Tiny()

    def batches(step):
        if step == 2:
            hooks.append(model.hidden.bias.register_hook(lambda g: g * float("nan")))
        elif hooks:
            hooks.pop().remove()
        return data(step)

    hooks = []
    records = train(model, batches, config())
    assert [r["step"] for r in records] == list(range(1, 8)), f"seven steps are recorded: {records}"
    finite = [math.isfinite(r["norm"]) for r in records]
    assert finite == [True, True, False, True, True, True, True], f"norms: {[r['norm'] for r in records]}"
    assert all(p.isfinite().all() for p in model.parameters()), "NaN reached the weights"

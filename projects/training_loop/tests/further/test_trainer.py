"""trainer.py and settings.py: one step, evaluation, digest. Oracles: one big batch in float64, plain AdamW, laws."""

import copy
import math

import pytest
import torch
import trials
from torch import nn

import settings
import text_data
import trainer as trainer_module
from shared.testing.checks import assert_close, expect_error

PLAIN = {"out": "", "clip": 1e9, "warmup_steps": 0, "steps": 10}


def trainer(model=None, **options):
    return trainer_module.Trainer(model or trials.Plain(), settings.Config(**{**PLAIN, **options}))


def big_batch(n_windows, model=None):
    """Loss and gradient of the mean over all valid tokens of one big batch, by torch."""
    model = model or trials.Plain()
    inputs, targets = trials.unequal_windows().batch(range(n_windows))
    loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def dealt(n_windows, accumulate):
    windows = trials.unequal_windows()
    parts = text_data.micro_batches(
        torch.arange(n_windows), rank=0, n_ranks=1, accumulate=accumulate, batch_size=len(windows)
    )
    return [windows.batch(part) for part in parts]


def mean_of_means(n_windows, accumulate):
    model = trials.Plain()
    batches = dealt(n_windows, accumulate)
    losses = [
        nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=-100)
        for x, y in batches
    ]
    (sum(losses) / len(losses)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def last_only(n_windows, accumulate):
    model, batches = trials.Plain(), dealt(n_windows, accumulate)
    x, y = batches[-1]
    n_tokens = sum(int((targets != -100).sum()) for _, targets in batches)
    logits = model(x).flatten(0, 1)
    (
        nn.functional.cross_entropy(logits, y.flatten(), ignore_index=-100, reduction="sum") / n_tokens
    ).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


# --- one step ---------------------------------------------------------------------------------------------------------


@pytest.mark.grades("settings.Config", "settings.Config.lr")
def test_config():
    """Bad settings are refused by name; the schedules are reached through Config.lr."""
    for bad in (
        {"precision": "fp8"},
        {"schedule": "step"},
        {"steps": 0},
        {"accumulate": 0},
        {"weight_decay": -0.1},
    ):
        with expect_error(ValueError, *bad, otherwise=f"{bad} is accepted"):
            settings.Config(out="", **bad)
    with expect_error(ValueError, "fp16", otherwise="fsdp with fp16 is accepted"):
        settings.Config(out="", fsdp=True, precision="fp16")
    options = {"out": "", "steps": 101, "warmup_steps": 10, "peak_lr": 1.0, "min_lr": 0.2}
    expected = {"cosine": 0.6, "linear": 0.6, "constant": 1.0, "wsd": 1.0}
    for schedule, rate in expected.items():
        config = settings.Config(schedule=schedule, **options)
        assert math.isclose(config.lr(4), 5 / 11), f"{schedule}: the warmup is missing"
        assert math.isclose(config.lr(55), rate), (
            f"{schedule}: half-way the rate is {config.lr(55)}, expected {rate}"
        )
        assert math.isclose(config.lr(100), 1.0 if schedule == "constant" else 0.2), (
            f"{schedule}: the last rate"
        )


@pytest.mark.grades
def test_progress_of_nothing():
    """A run that has not begun has made, used up and skipped nothing, and has no loss."""
    *counts, loss = vars(trainer_module.Progress()).values()
    assert counts == [0] * 5, f"step, epoch, position, skipped, skipped in a row: {counts}"
    assert math.isnan(loss), f"the loss before the first step: {loss}"


@pytest.mark.grades("Trainer", "Trainer.forward_backward")
@pytest.mark.parametrize("accumulate", [1, 2, 3, 10])
@pytest.mark.parametrize("n_windows", [10, 7])
def test_accumulation_equals_one_big_batch(accumulate, n_windows):
    """Micro-batches with unequal numbers of valid tokens, and an incomplete step: the gradient of one big batch, 1e-12."""
    assert len(trials.unequal_windows()) == 10
    loss, gradient = big_batch(n_windows)
    t = trainer(accumulate=accumulate, batch_size=10)
    batches = dealt(n_windows, accumulate)
    n_tokens = sum(int((y != -100).sum()) for _, y in batches)
    got = t.forward_backward(batches, n_tokens)
    ours = torch.cat([p.grad.flatten() for p in t.model.parameters()])
    averaged = mean_of_means(n_windows, accumulate)
    mistakes = {
        "the gradients are summed over micro-batches, not divided by the tokens of all": len(batches)
        * averaged
    }
    if len(batches) > 1:
        mistakes["micro-batches are averaged: a token in a short one weighs more than one in a long one"] = (
            averaged
        )
        mistakes["only the last micro-batch counts"] = last_only(n_windows, accumulate)
    assert_close(ours, gradient, rtol=1e-12, what="gradient", mistakes=mistakes)
    assert_close(got.double(), loss, rtol=1e-6, what="loss")


@pytest.mark.grades("Trainer", "Trainer.step", "settings.Config.lr")
def test_steps_equal_plain_adamw():
    """Five updates equal torch's AdamW with the same rates, decay groups and one big batch."""
    t = trainer(accumulate=3, weight_decay=0.2, peak_lr=0.05, min_lr=0.01, warmup_steps=2, clip=0.1)
    twin = trials.Plain()
    decay = [twin.hidden.weight, twin.head.weight]
    rest = [p for p in twin.parameters() if all(p is not d for d in decay)]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    for step in range(5):
        rate = t.config.lr(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss, gradient = big_batch(10, twin)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
        optimizer.step()
        report = t.step(dealt(10, 3))
        assert report.taken, f"step {step} has the rate {report.lr}, expected {rate}"
        assert report.lr == rate, f"step {step} has the rate {report.lr}, expected {rate}"
        assert math.isclose(report.loss, loss.item(), rel_tol=1e-5), (
            f"update {step}: loss {report.loss}, torch's AdamW has {loss.item()}: an earlier update differs. "
            "Is the gradient clipped?"
        )
        assert math.isclose(report.gradient_norm, gradient.norm().item(), rel_tol=1e-5), (
            f"update {step}: the norm before clipping is {report.gradient_norm}, expected {gradient.norm().item()}: "
            "are gradients cleared after the step, and not before?"
        )
        assert report.n_tokens == 56, f"56 valid tokens, reported {report.n_tokens}"
    for (name, ours), theirs in zip(t.model.named_parameters(), twin.parameters(), strict=True):
        assert_close(ours, theirs, rtol=1e-5, what=f"{name} after five updates")
    assert t.progress.step == 5
    assert all(p.grad is None or not p.grad.any() for p in t.model.parameters()), "gradients must be cleared"
    with expect_error(ValueError, "no valid target", otherwise="a batch without targets is accepted"):
        t.step([(torch.zeros(1, 3, dtype=torch.long), torch.full((1, 3), -100))])


def snapshot(t):
    """Everything that a skipped step may not touch."""
    return copy.deepcopy(
        {
            "weights": t.model.state_dict(),
            "optimizer": t.optimizer.state_dict()["state"],
            "ema": t.ema.state_dict(),
        }
    )


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.grades("Trainer", "Trainer.step")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_step_that_is_not_finite_is_skipped(precision, bad):
    """NaN or inf in one gradient: counted, and weights, optimizer, averages and schedule stay as they are."""
    t = trainer(trials.Plain().float(), precision=precision, warmup_steps=4, clip=1.0)
    t.step(dealt(10, 1))
    hook = t.model.hidden.bias.register_hook(lambda g: torch.full_like(g, bad))
    before, n_ema = snapshot(t), t.ema.n_updates
    report = t.step(dealt(10, 1))
    after = snapshot(t)
    assert all(torch.isfinite(w).all() for w in after["weights"].values()), (
        f"a gradient of {bad} reached the weights"
    )
    assert not report.taken, f"a gradient of {bad} must be reported as not taken"
    assert equal(before["weights"], after["weights"]), "a step that is not finite moved the weights"
    assert equal(before["optimizer"], after["optimizer"]), "a skipped step moved the optimizer's state"
    assert t.ema.n_updates == n_ema, "a skipped step updated the average"
    assert equal(before["ema"], after["ema"]), "a skipped step updated the average"
    assert t.progress.step == 1, "a skipped step advanced the schedule: only updates count"
    assert t.progress.skipped == 1, "skipped steps must be counted"
    row = t.progress.skipped_in_a_row
    if precision == "fp16":  # test_training_run_changed.py says more
        assert row == 0, "a scale that settles counts as a lost run"
    else:
        assert row == 1, f"skipped steps must be counted in a row too, where no scale can mend them: {row}"
    assert all(p.grad is None or not p.grad.any() for p in t.model.parameters()), (
        "the bad gradient stays around"
    )
    hook.remove()
    report = t.step(dealt(10, 1))
    assert report.taken, "the next step has the rate that the skipped one had"
    assert report.lr == t.config.lr(1), "the next step has the rate that the skipped one had"
    assert (t.progress.skipped, t.progress.skipped_in_a_row) == (1, 0), "a good step ends the row"


@pytest.mark.grades("Trainer", "Trainer.step")
def test_clipping_comes_after_unscaling():
    """With fp16 the norm and the limit are those of the true gradient, not of one scaled by 65536."""
    _, gradient = big_batch(10)
    norm = gradient.norm().item()
    t = trainer(trials.Plain().float(), precision="fp16", clip=norm / 2)
    seen = []
    step = t.optimizer.step

    def spy(*args, **kwargs):
        seen.append(torch.cat([p.grad.flatten() for p in t.model.parameters()]).norm().item())
        return step(*args, **kwargs)

    t.optimizer.step = spy
    report = t.step(dealt(10, 1))
    assert report.gradient_norm < 100 * norm, (
        f"clipping before unscaling: the norm {report.gradient_norm:.3g} is that of the scaled gradient, true {norm:.3g}"
    )
    assert math.isclose(report.gradient_norm, norm, rel_tol=0.02), (
        f"norm {report.gradient_norm}, expected {norm}"
    )
    assert seen, "the optimizer did not step"
    assert math.isclose(seen[0], norm / 2, rel_tol=0.02), (
        f"the optimizer saw a gradient of norm {seen[0]:.3g}, the limit is {norm / 2:.3g}"
    )


@pytest.mark.grades("Trainer", "Trainer.forward_backward")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_is_used(precision):
    """Under bf16 and fp16 the products are in that type, weights and gradients in float32, fp16 scaled."""
    seen = []
    model = trials.Plain().float()
    model.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    t = trainer(model, precision=precision)
    t.forward_backward(dealt(10, 1), 56)
    assert seen == [{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]], (
        f"precision={precision}: the head computed in {seen}"
    )
    assert t.model.head.weight.dtype == t.model.head.weight.grad.dtype == torch.float32, (
        "master weights are float32"
    )
    _, gradient = big_batch(10)
    ours = torch.cat([p.grad.flatten() for p in t.model.parameters()]).norm().item()
    scale = ours / gradient.norm().item()
    assert (scale > 100) == (precision == "fp16"), (
        f"{precision}: the gradient is {scale:.3g} times the true one"
    )


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.grades("trainer.evaluate")
@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_evaluation_does_not_depend_on_the_batch_size(batch_size):
    """Bits per byte, weighted by tokens."""
    model = trials.Plain(dropout=0.4)
    inputs, targets = trials.unequal_windows().batch(range(10))
    with torch.no_grad():
        logits = model.eval()(inputs).flatten(0, 1)
        nats = nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=-100)
        parts = [
            nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=-100)
            for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
        ]
    model.train()
    got = trainer_module.evaluate(model, trials.unequal_windows(), batch_size=batch_size)
    averages = torch.stack(parts).mean().item()
    mistakes = {"nats, not bits: divide by log 2": nats.item()}
    if len(parts) > 1:
        mistakes["averaged over batches: weigh by their numbers of tokens"] = averages / math.log(2)
    assert_close(
        got,
        nats.item() / math.log(2),
        rtol=1e-10,
        what="bits per byte",
        mistakes=mistakes,
        hint="is dropout off (eval mode) and every window used?",
    )


@pytest.mark.grades("trainer.evaluate")
def test_evaluation_restores_the_mode():
    """Train stays train, eval stays eval, a frozen submodule keeps its own mode, also after an error."""
    for training in (True, False):
        model = trials.Plain(dropout=0.4).train(training)
        model.hidden.eval()
        trainer_module.evaluate(model, trials.unequal_windows(), batch_size=4)
        assert model.training == model.dropout.training == training, (
            f"the model was in {'train' if training else 'eval'} mode before the evaluation, not after it"
        )
        assert not model.hidden.training, "a submodule that was in eval mode is in train mode afterwards"
    model = trials.Plain(dropout=0.4).train()
    model.head = None
    with pytest.raises(TypeError):
        trainer_module.evaluate(model, trials.unequal_windows(), batch_size=4)
    assert model.training, "after an error the model stays in eval mode: use finally"
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.grades("trainer.evaluate")
def test_evaluation_limit():
    """A limit takes that many windows, evenly spread."""
    model, windows = trials.Plain().eval(), trials.unequal_windows()
    _, targets = windows.batch([0, 3, 6])
    inputs, _ = windows.batch([0, 3, 6])
    nats = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
    got = trainer_module.evaluate(model, windows, batch_size=2, limit=3)
    assert_close(got, nats.item() / math.log(2), rtol=1e-10, what="bits per byte of windows 0, 3, 6")


@pytest.mark.grades("trainer.evaluate")
def test_evaluation_of_nothing():
    """No window, no batch, no limit below 1: refused by name, not 0/0."""
    windows, nothing = trials.unequal_windows(), text_data.Windows([b"a"], 8)
    for chosen, options, mention in (
        (nothing, {"batch_size": 4}, "0"),
        (windows, {"batch_size": 0}, "batch_size"),
        (windows, {"batch_size": 4, "limit": 0}, "limit"),
        (windows, {"batch_size": 4, "limit": -1}, "-1"),
    ):
        with expect_error(ValueError, mention, otherwise=f"{len(chosen)} windows, {options}: evaluated"):
            trainer_module.evaluate(trials.Plain(), chosen, **options)
    whole = trainer_module.evaluate(trials.Plain(), windows, batch_size=4)
    same = trainer_module.evaluate(trials.Plain(), windows, batch_size=4, limit=99)
    assert same == whole, "a limit above the number of windows takes them all"


@pytest.mark.grades("Trainer", "Trainer.step")
def test_micro_batches_from_an_iterator():
    """Counting the targets must not use up the batches."""
    ours, theirs = trainer(), trainer()
    reports = ours.step(iter(dealt(10, 3))), theirs.step(dealt(10, 3))
    assert reports[0] == reports[1], (
        f"from an iterator {reports[0]}, from a list {reports[1]}: are they used up?"
    )


@pytest.mark.grades("weights_sha256")
def test_weights_sha256():
    """Equal weights, equal digest; one bit, a dtype, a shape, or two weights exchanged, another."""

    def digest(model):
        return trainer_module.weights_sha256(model)

    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    same = copy.deepcopy(first)
    assert digest(first) == digest(same)
    assert len(digest(first)) == 64
    assert digest(copy.deepcopy(first).double()) != digest(first), "another dtype must be another digest"
    with torch.no_grad():
        same[1].bias[2] += 1e-7
    assert digest(same) != digest(first), "a change in the last bias does not change the digest"
    exchanged = nn.Sequential(first[1], first[0])
    assert digest(exchanged) != digest(first), "two layers exchanged give the same digest"
    assert digest(nn.Linear(2, 8).to(torch.bfloat16)), "bfloat16 must work: NumPy does not know it"

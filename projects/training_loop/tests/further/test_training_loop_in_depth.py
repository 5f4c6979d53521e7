"""training_loop.py beyond its plain contract: changed settings on resume, 16-bit gradients, iterators, refusals. Oracles: laws, float64."""

import dataclasses
import math

import pytest
import torch
from loop_oracles import UNEQUAL, Tiny, big_batch, config, data, gradient, scaler, stand_in
from torch import nn

import training_loop
from shared.testing.checks import assert_close, expect_error

# each setting of Config, another value, and where it shows in the records or the weights
CHANGED = {
    "steps": (9, "steps"),
    "peak_lr": (0.03, "rates"),
    "warmup_steps": (5, "rates"),
    "min_lr": (0.01, "rates"),
    "weight_decay": (0.5, "weights"),
    "max_norm": (0.01, "weights"),
    "precision": ("bf16", "losses"),
    "save_every": (2, "evaluated"),
}


def resumed(path, **options):
    """Save after 3 of 7 steps, go on with other settings; return what came of it."""

    def until(step):
        if step == 4:
            raise KeyboardInterrupt
        return data(step)

    model = Tiny(dtype=torch.float32)
    with pytest.raises(KeyboardInterrupt):
        training_loop.train(model, until, config(), checkpoint=path)
    model = Tiny(dtype=torch.float32)
    records = training_loop.train(model, data, config(**options), val_batches=UNEQUAL, checkpoint=path)
    return {
        "steps": [r["step"] for r in records],
        "rates": [r["lr"] for r in records],
        "losses": [r["loss"] for r in records],
        "evaluated": [r["step"] for r in records if "val_loss" in r],
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
    }


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    return resumed(str(tmp_path_factory.mktemp("unchanged") / "a.pt"))


@pytest.mark.grades("train", "load_checkpoint")
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(training_loop.Config)])
def test_changed_setting_on_resume(field, unchanged, tmp_path):
    """Each setting of a resumed call takes effect."""
    assert field in CHANGED, f"a new setting, {field}: what does a resumed run do with it?"
    value, where = CHANGED[field]
    before, after = unchanged, resumed(str(tmp_path / "a.pt"), **{field: value})
    assert before[where] != after[where], f"resumed with {field}={value}: it has no effect on the {where}"
    assert before["steps"][0] == after["steps"][0] == 4, "saved after 3 steps, the next is the fourth"


@pytest.mark.grades("train", "load_checkpoint")
def test_weight_decay_on_resume(tmp_path):
    """Without a gradient the weights shrink by 1 - rate·decay: the decay of the call that resumes, and of matrices only."""
    path, model = str(tmp_path / "a.pt"), nn.Sequential(nn.Embedding(13, 4), nn.Linear(4, 13))
    options = {"steps": 2, "peak_lr": 0.1, "min_lr": 0.1}
    with torch.no_grad():
        model[1].bias.fill_(2.0)

    def nothing(model):
        for p in model.parameters():
            p.register_hook(torch.zeros_like)

    nothing(model)
    training_loop.train(model, data, training_loop.Config(**options, weight_decay=0.0), checkpoint=path)
    weight, bias = model[1].weight.detach().clone(), model[1].bias.detach().clone()
    settings = training_loop.Config(**{**options, "steps": 3}, weight_decay=0.5)
    training_loop.train(model, data, settings, checkpoint=path)
    assert_close(
        model[1].weight, 0.95 * weight, rtol=1e-6, what="weights after a step with weight_decay=0.5 and rate 0.1",
        mistakes={"the weight_decay of the file, not of this call": weight},
    )  # fmt: skip
    assert torch.equal(model[1].bias, bias), "biases decay after resuming"


@pytest.mark.grades("train", "load_checkpoint")
@pytest.mark.parametrize(("first", "then"), [("fp32", "fp16"), ("bf16", "fp16"), ("fp16", "fp32")])
def test_another_precision_on_resume(first, then, tmp_path):
    """The run goes on; a scaler that had nothing to load is a new one."""
    path, scales = str(tmp_path / "a.pt"), []
    step = training_loop.training_step

    def spy(model, optimizer, scaler, *rest, **named):
        scales.append(scaler.get_scale())
        return step(model, optimizer, scaler, *rest, **named)

    training_loop.train(Tiny(dtype=torch.float32), data, config(steps=3, precision=first), checkpoint=path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "training_step", spy)
        try:
            records = training_loop.train(
                Tiny(dtype=torch.float32), data, config(steps=5, precision=then), checkpoint=path
            )
        except RuntimeError as error:
            if isinstance(error, NotImplementedError):
                raise
            raise AssertionError(f"saved with {first}, resumed with {then}: {error}") from error
    assert [r["step"] for r in records] == [4, 5]
    expected = 2.0**16 if then == "fp16" else 1.0
    assert scales[0] == expected, f"the factor after {first} is {scales[0]}, a new scaler has {expected}"


@pytest.mark.grades("load_checkpoint", "save_checkpoint")
def test_checkpoint_of_more_devices(tmp_path, monkeypatch):
    """Saved with two CUDA devices, loaded with one or none: the states that there are devices for."""
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.tensor([k]).byte() for k in (1, 2)])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: restored.append(list(states)))
    model = Tiny()
    parts = model, torch.optim.AdamW(model.parameters()), scaler()
    training_loop.save_checkpoint(str(tmp_path / "a.pt"), 1, *parts)
    for n_devices in (2, 1, 0):
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=n_devices: n)
        training_loop.load_checkpoint(str(tmp_path / "a.pt"), *parts)
        found = len(restored[-1])
        assert found == n_devices, f"{n_devices} devices, and {found} random states are set: 2 were saved"


@pytest.mark.grades("clip_gradients")
def test_clip_counts_a_parameter_once():
    """A tied weight that is listed twice has one gradient: its norm is 5, and it is scaled once."""
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    norm = training_loop.clip_gradients([first, second, first], 1.0)
    assert_close(
        norm, torch.tensor(5.0), rtol=1e-6, what="norm", hint="a parameter that comes twice counts once"
    )
    assert_close(first.grad, torch.tensor([0.6]), rtol=1e-6, what="gradient, clipped once")


@pytest.mark.grades("clip_gradients")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_clip_of_16_bits(dtype):
    """The norm of 16-bit gradients is 120000, which float16 does not know and bfloat16 rounds: it is in float32."""
    parameters = [nn.Parameter(torch.zeros(2, 2, dtype=dtype)) for _ in range(2)]
    for p, value in zip(parameters, (49152.0, 36864.0), strict=True):
        p.grad = torch.full_like(p, value)
    norm = training_loop.clip_gradients(parameters, 1.0)
    assert_close(norm, torch.tensor(122880.0), rtol=1e-6, what="norm", hint=f"it is computed in {norm.dtype}")
    got = torch.stack([p.grad[0, 0].float() for p in parameters])
    assert_close(got, torch.tensor([0.4, 0.3]), rtol=2**-8, what="clipped gradients")


@pytest.mark.grades("clip_gradients")
@pytest.mark.parametrize("limit", [-1.0, math.nan, -math.inf])
def test_clip_refuses(limit):
    """A negative limit would turn the gradient around, NaN would clip nothing."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    with expect_error(ValueError, "max_norm", str(limit), otherwise=f"max_norm={limit} is accepted"):
        training_loop.clip_gradients([parameter], limit)
    assert parameter.grad.tolist() == [3.0, 4.0], "what is refused changes nothing"


@pytest.mark.grades("warmup_cosine")
@pytest.mark.parametrize("rate", [math.inf, math.nan])
def test_schedule_refuses_inf(rate):
    """A peak that is not finite makes weights that are not."""
    with expect_error(ValueError, str(rate), otherwise=f"peak_lr={rate} is accepted"):
        training_loop.warmup_cosine(2, 3, 11, rate, 0.1)


@pytest.mark.grades("accumulate_gradients")
def test_micro_batches_from_an_iterator(monkeypatch):
    """Counting the targets must not use up the batches: the gradient is that of a list."""
    accumulate = stand_in(monkeypatch, "accumulate_gradients")
    model = Tiny()
    loss = accumulate(model, iter(UNEQUAL), scaler(), "fp32")
    expected, wanted = big_batch(UNEQUAL)
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing, f"batches from an iterator: loss {loss} and no gradient: counting has used them up"
    assert_close(gradient(model), wanted, rtol=1e-12, what="gradient")
    assert_close(loss, expected, rtol=1e-6, what="loss")


@pytest.mark.grades("token_loss")
@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 6), (2, 3, 1)], ids=str)
def test_loss_refuses_other_shapes(shape):
    """As many targets as logits, in another order: (T, B) for (B, T)."""
    case = f"targets {shape} for logits (2, 3, 5)"
    with expect_error(
        ValueError, "(2, 3, 5)", otherwise=f"{case} are accepted: each would be scored by another token"
    ):
        training_loop.token_loss(torch.zeros(2, 3, 5), torch.zeros(shape, dtype=torch.int64))

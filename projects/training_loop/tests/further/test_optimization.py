"""optimization.py: clipping and averaging. Oracles: hand values, torch.nn.utils, torch.optim.swa_utils, laws."""

from pathlib import Path

import pytest
import torch
from torch import nn

import optimization
from shared.testing.checks import assert_close, expect_error

pytestmark = pytest.mark.module("optimization")


@pytest.mark.grades
def test_clipping_is_written_out():
    """Clipping is what is asked for, so torch's own is not called."""
    source = Path(optimization.__file__).read_text(encoding="utf-8")
    for name in ("clip_grad_norm", "clip_grads_with_norm", "get_total_norm"):
        assert name not in source, f"calls the library instead: {name} does the work that is asked of you"


def with_gradients(*gradients):
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    return parameters


@pytest.mark.grades("clip_gradients")
def test_clip_by_hand():
    """Gradients (3, 0) and (4): their joint norm is 5, clipped to 1 they are (0.6, 0) and (0.8)."""
    parameters = with_gradients(torch.tensor([3.0, 0.0]), torch.tensor([4.0]))
    norm = optimization.clip_gradients(parameters, 1.0)
    got = torch.cat([p.grad for p in parameters])
    assert_close(
        got,
        torch.tensor([0.6, 0.0, 0.8]),
        rtol=1e-5,
        what="clipped gradients",
        mistakes={
            "each parameter is clipped by its own norm: the direction of the step changes": torch.tensor(
                [1.0, 0.0, 1.0]
            ),
            "each entry is clipped: the direction of the step changes": torch.tensor([1.0, 0.0, 1.0]),
            "the gradients are not clipped": torch.tensor([3.0, 0.0, 4.0]),
            "divided by the squared norm: take the root": torch.tensor([3 / 25, 0.0, 4 / 25]),
        },
    )
    mistakes = {"the norm after clipping is returned; the one before is what a plot needs": torch.tensor(1.0)}
    assert_close(norm, torch.tensor(5.0), rtol=1e-6, what="returned norm", mistakes=mistakes)


@pytest.mark.grades("clip_gradients")
def test_clip_leaves_small_gradients_alone():
    """Below the limit nothing changes, not by one bit; inf only measures."""
    gradients = [torch.tensor([0.3, -0.4]), torch.tensor([[0.5]])]
    for limit in (0.8, float("inf")):
        parameters = with_gradients(*gradients)
        optimization.clip_gradients(parameters, limit)
        for p, g in zip(parameters, gradients, strict=True):
            assert torch.equal(p.grad, g), f"norm 0.707, limit {limit}: small gradients are scaled up or down"


@pytest.mark.grades("clip_gradients")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("max_norm", [0.25, 2.0, 100.0])
def test_clip_equals_torch(dtype, max_norm, generator):
    """The same as torch.nn.utils.clip_grad_norm_, over several shapes; a parameter without gradient is passed over."""
    gradients = [torch.randn(s, generator=generator, dtype=dtype) for s in [(3, 4), (5,), (), (2, 1, 3)]]
    ours, theirs = with_gradients(*gradients), with_gradients(*gradients)
    ours.insert(1, nn.Parameter(torch.zeros(3)))
    norm = optimization.clip_gradients(ours, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert_close(norm, expected, rtol=1e-6, what="norm")
    got = torch.cat([p.grad.flatten() for p in ours if p.grad is not None])
    assert_close(got, torch.cat([p.grad.flatten() for p in theirs]), rtol=1e-5, what="gradients")


@pytest.mark.grades("clip_gradients")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clip_not_finite(bad):
    """The norm of a broken gradient is not finite, and the other gradients are not poisoned."""
    parameters = with_gradients(torch.tensor([1.0, bad]), torch.tensor([2.0]))
    norm = optimization.clip_gradients(parameters, 1.0)
    assert not torch.isfinite(norm), f"a gradient with {bad} must give a norm that is not finite, got {norm}"
    assert parameters[1].grad.item() == 2.0, (
        f"a gradient with {bad} changed the others to {parameters[1].grad.item()}: leave them alone"
    )


@pytest.mark.grades("clip_gradients")
def test_clip_edge_cases():
    """A generator of parameters; no gradients at all; zero gradients; limits that make no sense."""
    parameters = with_gradients(torch.tensor([6.0]), torch.tensor([8.0]))
    norm = optimization.clip_gradients((p for p in parameters), 5.0)
    assert_close(torch.cat([p.grad for p in parameters]), torch.tensor([3.0, 4.0]), what="from a generator")
    assert norm.item() == 10.0
    assert optimization.clip_gradients([nn.Parameter(torch.zeros(2))], 1.0).item() == 0.0
    zeros = with_gradients(torch.zeros(3))
    optimization.clip_gradients(zeros, 1.0)
    assert torch.equal(zeros[0].grad, torch.zeros(3)), "zero gradients must stay zero: 0/0 is NaN"
    for limit in (0.0, -1.0, float("nan")):
        with expect_error(ValueError, str(limit), otherwise=f"max_norm={limit} is accepted"):
            optimization.clip_gradients(with_gradients(torch.ones(2)), limit)


@pytest.mark.grades("clip_gradients")
def test_clip_counts_a_parameter_once():
    """A tied weight that is listed twice has one gradient: the norm is 5, and it is scaled once; one tensor is no list."""
    first, second = with_gradients(torch.tensor([3.0]), torch.tensor([4.0]))
    norm = optimization.clip_gradients([first, second, first], 1.0)
    assert_close(
        norm, torch.tensor(5.0), rtol=1e-6, what="norm", hint="a parameter that comes twice counts once"
    )
    assert_close(first.grad, torch.tensor([0.6]), rtol=1e-6, what="gradient, clipped once")
    with expect_error(
        TypeError, "(1,)", otherwise="one tensor is taken for a list of its rows, which have no gradients"
    ):
        optimization.clip_gradients(first, 1.0)


@pytest.mark.grades("clip_gradients")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_clip_of_16_bits(dtype):
    """The norm of 16-bit gradients is 122880, which float16 does not know and bfloat16 rounds: it is in float32."""
    parameters = with_gradients(*(torch.full((2, 2), value, dtype=dtype) for value in (49152.0, 36864.0)))
    norm = optimization.clip_gradients(parameters, 1.0)
    assert_close(norm, torch.tensor(122880.0), rtol=1e-6, what="norm", hint=f"it is computed in {norm.dtype}")
    got = torch.stack([p.grad[0, 0].float() for p in parameters])
    assert_close(got, torch.tensor([0.4, 0.3]), rtol=2**-8, what="clipped gradients")


@pytest.mark.grades("clip_gradients")
def test_clip_of_mixed_types():
    """Gradients in float16 and float64 have one norm, in float64."""
    parameters = with_gradients(
        torch.tensor([3.0], dtype=torch.float16), torch.tensor([4.0], dtype=torch.float64)
    )
    norm = optimization.clip_gradients(parameters, 1.0)
    assert_close(norm, torch.tensor(5.0, dtype=torch.float64), what="norm of 3 in float16 and 4 in float64")


@pytest.mark.grades("Ema", "Ema.update", "Ema.applied")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_ema_of_16_bit_weights(dtype):
    """Weight 1, then 1.5, decay 0.99, 2,000 updates each: the average is 1.5, not where 16 bits stop moving."""
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.constant_(model.weight, 1.0)
    ema = optimization.Ema(model, 0.99)
    for value in (1.0, 1.5):
        nn.init.constant_(model.weight, value)
        for _ in range(2_000):
            ema.update()
    (average,) = ema.state_dict()["averages"].values()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # float32 stands still where (1 - decay)·difference is half a rounding step: 0.6e-7/1e-2
    assert_close(
        average, torch.tensor([[1.5]]), dtype=wide, rtol=1e-4, what=f"average of {dtype} weights",
        hint="in 16 bits an update is rounded away: keep the averages in float32",
    )  # fmt: skip
    with ema.applied():
        assert model.weight.dtype == dtype, f"inside the block the weights are {model.weight.dtype}"
        assert model.weight.item() == pytest.approx(1.5, rel=1e-4), "the block sees the average"


@pytest.mark.grades("Ema", "Ema.update", "Ema.applied")
def test_ema_by_hand():
    """Weights 1, then 2, then 3, decay 0.15: the first update uses min(0.15, 1/10), the second 0.15 (not 2/11)."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema = optimization.Ema(model, 0.15)
    for value in (2.0, 3.0):
        nn.init.constant_(model.weight, value)
        ema.update()
    first = 0.1 * 1 + 0.9 * 2
    with ema.applied():
        got = model.weight.detach().clone()
    mistakes = {
        "the decay does not start low: min(decay, (1 + n)/(10 + n))": torch.tensor(
            [[0.15 * 1.85 + 0.85 * 3]]
        ),
        "decay and 1 - decay are exchanged": torch.tensor([[(1 + 0.1) * 0.85 + 0.15 * 3]]),
        "the block sees the weights, not their average": torch.tensor([[3.0]]),
    }
    expected = torch.tensor([[0.15 * first + 0.85 * 3]])
    assert_close(got, expected, rtol=1e-6, what="average", mistakes=mistakes)
    assert model.weight.item() == 3.0, (
        f"after the block the weights must be back: 3, got {model.weight.item()}"
    )


@pytest.mark.grades("Ema", "Ema.update", "Ema.applied")
def test_ema_equals_torch(generator):
    """With the decay already settled: torch.optim.swa_utils.AveragedModel gives the same averages."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    ema = optimization.Ema(model, 0.05)  # 0.05 < 1/10: constant from the first update on
    twin = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.05), use_buffers=False
    )
    twin.update_parameters(model)  # the first call copies
    for _ in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        ema.update()
        twin.update_parameters(model)
    with ema.applied():
        got = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert_close(
        got, torch.cat([p.detach().flatten() for p in twin.module.parameters()]), rtol=1e-5, what="averages"
    )


@pytest.mark.grades("Ema", "Ema.applied")
def test_ema_gives_the_weights_back():
    """After an error inside the block the weights are back, bit for bit; gradients may flow again."""
    model = nn.Linear(3, 2)
    ema = optimization.Ema(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1 / 3)
    before = model.weight.detach().clone()

    def fail_inside():
        with ema.applied():
            assert not torch.equal(model.weight, before), "inside the block the model must have the averages"
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail_inside()
    assert torch.equal(model.weight, before), (
        "an error in the block leaves the averages in the model: use finally"
    )
    model(torch.ones(1, 3)).sum().backward()
    assert model.weight.grad is not None, "the parameters must stay trainable"


@pytest.mark.grades("Ema", "Ema.state_dict", "Ema.load_state_dict", "Ema.update")
def test_ema_state():
    """A second average, loaded from the state of the first, goes on exactly like it."""

    def moved(model, value):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(value)

    model = nn.Linear(2, 2)
    moved(model, 1.0)
    ema = optimization.Ema(model, 0.9)
    for value in (2.0, 4.0):
        moved(model, value)
        ema.update()
    state = {
        "n_updates": ema.state_dict()["n_updates"],
        "averages": {k: v.clone() for k, v in ema.state_dict()["averages"].items()},
    }
    assert state["n_updates"] == 2, f"n_updates must be 2 after two updates, got {state['n_updates']}"
    assert state["averages"].keys() == {"weight", "bias"}, f"names: {sorted(state['averages'])}"
    moved(model, 1.0)
    other = optimization.Ema(model, 0.9)
    other.load_state_dict(state)
    moved(model, 7.0)
    ema.update()
    other.update()
    for name, average in ema.state_dict()["averages"].items():
        assert torch.equal(average, other.state_dict()["averages"][name]), (
            f"{name} goes on differently after loading: is the number of updates restored?"
        )
    with expect_error(ValueError, "else", otherwise="averages with other names are accepted"):
        other.load_state_dict({"n_updates": 1, "averages": {"else": torch.zeros(2)}})
    before = {name: average.clone() for name, average in other.state_dict()["averages"].items()}
    narrow = {"weight": torch.zeros(2, 2), "bias": torch.zeros(1)}
    with expect_error(
        ValueError, "(1,)", otherwise="a bias of one number is copied to all places of another"
    ):
        other.load_state_dict({"n_updates": 1, "averages": narrow})
    assert all(torch.equal(other.state_dict()["averages"][name], before[name]) for name in before), (
        "half loaded"
    )


@pytest.mark.grades("Ema")
@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_ema_decay(decay):
    """A decay of 1 would never move."""
    with expect_error(ValueError, str(decay), otherwise=f"decay={decay} is accepted"):
        optimization.Ema(nn.Linear(2, 2), decay)


@pytest.mark.grades("Ema", "Ema.update", "Ema.applied")
def test_ema_without_memory():
    """A decay of 0 is allowed: the average is the newest weights."""
    model = nn.Linear(2, 2)
    ema = optimization.Ema(model, 0.0)
    with torch.no_grad():
        model.weight.fill_(3.0)
    ema.update()
    with ema.applied():
        assert (model.weight == 3).all(), f"decay 0, weights of 3, average {model.weight.tolist()}"

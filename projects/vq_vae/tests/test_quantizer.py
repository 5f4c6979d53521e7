"""The codebook: its moving average, the restart of dead codes, and the quantizer around them, to which the others are lent.

Oracles: cluster means by hand and vector by vector in float64, laws, and a lookup by a matrix product.
"""

import oracles
import pytest
import torch
from oracles import EMA_MISTAKES, averaged, global_seed, gradients, look_up, normal, seeded, squared_distances
from torch import nn

import vq_vae
from shared.testing.checks import assert_close, unchanged

STATE = ("codebook", "counts", "sums")

# --- ema_update -------------------------------------------------------------------------------------------------------


def check_update(state, z, indices, decay, rtol=1e-5):
    """Update in place, and compare all three tensors with float64; codes that were not chosen to the last bit."""
    before = [tensor.clone() for tensor in state]
    with unchanged(z, indices):
        vq_vae.ema_update(*state, z, indices, decay=decay)
    unused = torch.ones(len(before[0]), dtype=torch.bool).index_fill(0, indices, False)
    expected = averaged(*before, z, indices, decay)
    for number, name in ((1, "counts"), (2, "sums"), (0, "codebook")):
        got, wanted = state[number], expected[number]
        mistakes = {
            diagnosis: lambda wrong=wrong, number=number: averaged(*before, z, indices, decay, wrong)[number]
            for wrong, diagnosis in EMA_MISTAKES.items()
        }
        mistakes[f"{name} did not change: all three tensors are updated in place"] = before[number]
        vacuous_ok = "one code alone has this count" if wanted.numel() < 3 or name == "counts" else None
        how = {"dtype": torch.float32, "rtol": rtol, "mistakes": mistakes, "vacuous_ok": vacuous_ok}
        assert_close(got, wanted, what=f"{name} after the update with decay={decay}", **how)
    same = torch.equal(state[0][unused], before[0][unused])
    assert same, "codes that this batch did not choose stay as they are, to the last bit"


def fresh(n_codes, d, generator):
    """A codebook as a quantizer starts: counts of 1, and sums that are the codes."""
    codebook = normal(n_codes, d, generator=generator)
    return codebook, torch.ones(n_codes), codebook.clone()


@pytest.mark.grades("ema_update")
def test_update_by_hand():
    """Decay 1/4: code 0 has count 4 and sum (4, 8) and gets (3, 1) and (5, 3); code 1 gets nothing, code 2 one vector."""
    codebook = torch.tensor([[1.5, 2.5], [7.0, -7.0], [0.25, 0.75]])
    counts, sums = torch.tensor([4.0, 4.0, 2.0]), torch.tensor([[4.0, 8.0], [8.0, 4.0], [1.0, 1.0]])
    z, indices = torch.tensor([[3.0, 1.0], [-1.0, 2.0], [5.0, 3.0]]), torch.tensor([0, 2, 0])
    state = codebook.clone(), counts.clone(), sums.clone()
    check_update(state, z, indices, 0.25)
    assert_close(state[1], torch.tensor([2.5, 1.0, 1.25]), what="counts")
    assert_close(state[2], torch.tensor([[7.0, 5.0], [2.0, 1.0], [-0.5, 1.75]]), what="sums")
    assert_close(state[0], torch.tensor([[2.8, 2.0], [7.0, -7.0], [-0.4, 1.4]]), what="codebook")


@pytest.mark.grades("ema_update")
def test_update_without_memory(generator):
    """Decay 0 gives the mean of each cluster, and leaves the other rows alone although their count is 0."""
    state = fresh(6, 3, generator)
    z, indices = (
        normal(17, 3, generator=generator) + 2,
        torch.tensor([4, 1, 1, 5, 4, 1, 0, 4, 1, 5, 1, 4, 1, 0, 1, 5, 4]),
    )
    before = state[0].clone()
    check_update(state, z, indices, 0.0)
    means = torch.stack(
        [z[indices == k].double().mean(0) if (indices == k).any() else before[k].double() for k in range(6)]
    )
    assert_close(state[0], means, dtype=torch.float32, rtol=1e-5, what="cluster means")


@pytest.mark.grades("ema_update")
@pytest.mark.parametrize("decay", [0.9, 0.3, 0.99])
def test_updates_in_a_row(decay, generator):
    """Several batches, one after another: the history counts; each batch leaves out other codes."""
    state = fresh(7, 4, generator)
    for step in range(5):
        z = 2 * normal(11 + step, 4, generator=generator) + step
        chosen = torch.randperm(7, generator=generator)[:4]
        indices = chosen[torch.randint(0, 4, (len(z),), generator=generator)]
        check_update(state, z, indices, decay)


@pytest.mark.grades("ema_update")
@pytest.mark.parametrize("n", [1, 9])
def test_update_of_one_code(n, generator):
    """All vectors choose the same code; there is only one vector; more codes than vectors."""
    state = fresh(12, 2, generator)
    check_update(state, normal(n, 2, generator=generator), torch.full((n,), 10), 0.6)


@pytest.mark.grades("ema_update")
def test_update_of_a_strided_view(generator):
    """The vectors of a feature map come as a view."""
    z = normal(5, 40, generator=generator).T
    check_update(fresh(3, 5, generator), z, torch.arange(40) % 7 % 3, 0.8)


# --- restart_dead_codes -----------------------------------------------------------------------------------------------

USAGE = torch.tensor([0, 3, 0, 0, 1, 12, 0, 2, 0, 1])
DEAD = USAGE == 0


def restarted(z, usage=USAGE, *, generator, learns=False):
    """Restart some codes of a codebook (len(usage), 3); check what always holds; return which rows of z they became."""
    start = seeded(1)
    codebook = normal(len(usage), 3, generator=start)
    state = [nn.Parameter(codebook) if learns else codebook, 5 * torch.rand(len(usage), generator=start) + 2]
    state.append(normal(len(usage), 3, generator=start))
    before = [tensor.detach().clone() for tensor in state]
    with unchanged(z, usage):
        try:
            n = vq_vae.restart_dead_codes(*state, usage, z, generator=generator)
        except (IndexError, ValueError, RuntimeError) as error:
            if isinstance(error, NotImplementedError):
                raise
            case = f"with {len(z)} vectors for {int((usage == 0).sum())} dead codes"
            raise AssertionError(f"restart_dead_codes fails {case}: {error}") from error
    state = [tensor.detach() for tensor in state]
    alive = usage > 0
    for name, now, old in zip(STATE, state, before, strict=True):
        assert torch.equal(now[alive], old[alive]), (
            f"{name} of codes in use changed: only where usage is 0 is something new"
        )
    changed = (state[0] != before[0]).any(1)
    copies = (state[0][changed][:, None] == before[0]).all(-1).any()
    assert not copies, "a restarted code is a copy of another code: dead codes become vectors of z"
    expected = min(int((~alive).sum()), len(z))
    found = int(changed.sum())
    assert found == expected, (
        f"{found} codes restarted, expected {expected}: of {int((~alive).sum())} dead, with {len(z)} vectors"
    )
    assert isinstance(n, int), f"it returns how many codes restarted, an int, and not a {type(n).__name__}"
    assert n == expected, f"it returns how many codes restarted, {expected}, and not {n}"
    same = (state[0][changed][:, None] == z).all(-1)
    assert same.any(1).all(), (
        f"a restarted code is no row of z: {state[0][changed][~same.any(1)][:1].tolist()}"
    )
    rows = same.long().argmax(1)
    assert len(rows.unique()) == len(rows), (
        f"two codes restart as the same vector: each gets a row of its own, {rows.tolist()}"
    )
    for name, now, old in zip(STATE, state, before, strict=True):
        kept = ~alive & ~changed
        assert torch.equal(now[kept], old[kept]), (
            f"{name} changed for a dead code for which no vector was left"
        )
    assert (state[1][changed] == 1).all(), f"a new code has a count of 1, got {state[1][changed].tolist()}"
    assert torch.equal(state[2][changed], state[0][changed]), (
        "the sum of a new code, with a count of 1, is the code itself"
    )
    return rows


@pytest.mark.grades("restart_dead_codes")
def test_restart_contract(generator):
    """Dead codes become different rows of z with a count of 1 and their own sum; the others stay; the number comes back."""
    z = normal(40, 3, generator=generator) + 4
    rows = restarted(z, generator=generator)
    assert len(rows) == int(DEAD.sum())
    restarted(z, USAGE.float(), generator=generator)


@pytest.mark.grades("restart_dead_codes")
def test_restart_of_a_parameter(generator):
    """A codebook that is trained by its gradient restarts too."""
    restarted(normal(8, 3, generator=generator) + 4, generator=generator, learns=True)


@pytest.mark.grades("restart_dead_codes")
def test_restart_is_random(generator):
    """Over many draws every row has its turn, equally often; the same generator gives the same rows."""
    z = normal(9, 3, generator=generator) + 4
    draws = torch.stack([restarted(z, generator=generator) for _ in range(90)])
    assert (draws != draws[0]).any(), "the same rows of z every time: they are drawn, with the generator"
    seen = draws.flatten().bincount(minlength=9).tolist()  # 50 ± 4.7
    said = f"not all rows of z come equally often: of 90 draws of five rows {seen}, expected about 50 each"
    assert all(20 < n < 80 for n in seen), said
    steps = (draws - draws.roll(1, dims=1))[:, 1:] % 9
    assert (steps != steps[0, 0]).any(), "the rows are neighbours every time: each is drawn on its own"
    first, second = (restarted(z, generator=seeded(5)) for _ in range(2))
    assert torch.equal(first, second), (
        "two generators with the same seed give different rows: is the generator used?"
    )


@pytest.mark.grades("restart_dead_codes")
def test_restart_leaves_global_random_numbers(generator):
    """The generator that is passed is the only one."""
    z, found = normal(30, 3, generator=generator) + 4, []
    for seed in (1, 2):
        with global_seed(seed):
            before = torch.get_rng_state()
            found.append(restarted(z, generator=seeded(5)))
            untouched = torch.equal(torch.get_rng_state(), before)
            assert untouched, (
                "numbers are drawn from the global generator: draw them from the one that is passed"
            )
    assert torch.equal(*found), (
        "the rows depend on torch.manual_seed: draw them from the generator that is passed"
    )


@pytest.mark.grades("restart_dead_codes")
@pytest.mark.parametrize("n", [1, 3, 5, 6])
def test_restart_with_few_vectors(n, generator):
    """Fewer vectors than dead codes, five: as many restart as there are vectors; all vectors are used."""
    z = normal(n, 3, generator=generator) + 4
    assert len(restarted(z, generator=generator)) == min(n, 5)


@pytest.mark.grades("restart_dead_codes")
def test_restart_of_none_or_all(generator):
    """No code is dead: nothing changes, and 0 comes back. All are dead: all restart."""
    z = normal(12, 3, generator=generator) + 4
    assert len(restarted(z, USAGE + 1, generator=generator)) == 0
    assert len(restarted(z, 0 * USAGE, generator=generator)) == 10


# --- VectorQuantizer --------------------------------------------------------------------------------------------------


@pytest.fixture
def lent(monkeypatch):
    """Put other functions in the place of the learner's."""
    for name in ("nearest_codes", "straight_through", "ema_update"):
        monkeypatch.setattr(vq_vae, name, getattr(oracles, name))


def quantizer_and_map(shape, generator, *, n_codes=9, decay=None):
    """Return a quantizer, and feature maps of that shape whose channels differ in mean and size."""
    d = shape[1]
    quantizer = vq_vae.VectorQuantizer(n_codes, d, decay=decay, generator=generator)
    size = torch.linspace(0.5, 2, d)[:, None, None]
    return quantizer, size * (normal(*shape, generator=generator) + 0.3)


def state_of(quantizer):
    return [getattr(quantizer, name).detach().clone() for name in STATE]


@pytest.mark.grades("VectorQuantizer")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("decay", [None, 0.9, 0.0])
def test_quantizer_state(decay, generator):
    """What is a Parameter and what is a buffer; counts start at 1, sums as the codes."""
    quantizer = vq_vae.VectorQuantizer(5, 3, decay=decay, generator=generator)
    parameters, buffers = dict(quantizer.named_parameters()), dict(quantizer.named_buffers())
    kind, where = ("a Parameter", parameters) if decay is None else ("a buffer", buffers)
    assert "codebook" in where, f"with decay={decay} the codebook is {kind}"
    assert set(parameters) <= {"codebook"}, f"parameters that should not be there: {sorted(parameters)}"
    wanted = {"codebook": (5, 3), "counts": (5,), "sums": (5, 3)}
    for name, shape in wanted.items():
        if name != "codebook":
            assert name in buffers, f"{name} is a buffer, with decay and without: register_buffer"
        got = tuple(getattr(quantizer, name).shape)
        assert got == shape, f"{name} has shape {got}, expected {shape}"
    assert (quantizer.counts == 1).all(), f"counts start at 1, got {quantizer.counts.tolist()}"
    assert torch.equal(quantizer.sums, quantizer.codebook.detach()), "sums start as the codes"
    shared = quantizer.sums.data_ptr() == quantizer.codebook.data_ptr()
    assert not shared, "sums is the codebook itself, not a copy: what changes one changes the other"
    assert not quantizer.sums.requires_grad, "sums carries a gradient: it is a buffer, a copy of the numbers"
    assert quantizer.decay == decay, f"decay is {quantizer.decay}, given was {decay}"


@pytest.mark.grades("VectorQuantizer")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_quantizer_starts_normal(decay, generator):
    """Mean 0, standard deviation 1, drawn with the generator and with no other."""
    codes = []
    for seed in (1, 2):
        with global_seed(seed):
            codes.append(vq_vae.VectorQuantizer(700, 6, decay=decay, generator=seeded(4)).codebook.detach())
    assert torch.equal(*codes), (
        "the codebook depends on torch.manual_seed: draw it with the generator that is passed"
    )
    other = vq_vae.VectorQuantizer(700, 6, decay=decay, generator=generator).codebook.detach()
    assert not torch.equal(codes[0], other), "another generator gives the same codebook: is it drawn?"
    moments = codes[0].mean().item(), codes[0].std().item(), codes[0].pow(4).mean().item()
    standard = abs(moments[0]) < 0.1 and abs(moments[1] - 1) < 0.06 and abs(moments[2] - 3) < 0.9
    said = "mean {:.3f}, standard deviation {:.3f}, fourth moment {:.3f} (expected 0, 1, 3)".format(*moments)
    assert standard, f"the codes do not start standard normal: {said}"


def codes_mistakes(codebook, z):
    """Return what wrong handling of the axes gives."""
    B, d, H, W = z.shape

    def found(vectors):
        return codebook[squared_distances(vectors, codebook).argmin(-1)]

    return {
        "the map is viewed as vectors without a permute: a vector is made of neighbouring pixels": lambda: (
            found(z.reshape(B, H, W, d)).view(B, d, H, W)
        ),
        "permuted on the way in only: the codes are viewed as a map, not permuted back": lambda: found(
            z.permute(0, 2, 3, 1)
        ).reshape(B, d, H, W),
        "viewed on the way in, permuted back": lambda: found(z.reshape(B, H, W, d)).permute(0, 3, 1, 2),
        "height and width are exchanged": lambda: found(z.permute(0, 3, 2, 1)).permute(0, 3, 1, 2),
        "z itself comes back, not its codes": z,
    }


SHAPES = [(2, 3, 4, 5), (3, 4, 4, 4), (2, 2, 5, 2), (1, 5, 3, 1)]


@pytest.mark.grades("VectorQuantizer")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_quantizer_finds_the_codes(shape, decay, generator):
    """Codes where z was, and their indices; sizes all different, and all equal, where no shape betrays a wrong order."""
    quantizer, z = quantizer_and_map(shape, generator, decay=decay)
    codebook = quantizer.eval().codebook.detach().clone()
    with unchanged(z):
        codes, indices = quantizer(z)
    expected = squared_distances(z.permute(0, 2, 3, 1), codebook).argmin(-1)
    mistakes = codes_mistakes(codebook, z)
    values = look_up(codebook, expected)
    assert_close(codes.detach(), values, rtol=1e-6, what=f"codes of {shape}", mistakes=mistakes)
    assert_close(indices, expected, what=f"indices of {shape}")


@pytest.mark.grades("VectorQuantizer")
@pytest.mark.usefixtures("lent")
def test_quantizer_gradient(generator):
    """The codes carry a gradient to the chosen rows of the codebook, and none to z."""
    quantizer, z = quantizer_and_map((2, 3, 4, 5), generator)
    z.requires_grad_()
    codes, indices = quantizer(z)
    cotangent = normal(2, 3, 4, 5, generator=generator)
    assert codes.requires_grad, (
        "the codes are detached from the codebook, which is a Parameter: nothing can move it"
    )
    to_z, to_codebook = gradients(codes, (z, quantizer.codebook), cotangent)
    assert not to_z.any(), "the codes carry a gradient to z: straight_through comes later, in the model"
    expected = torch.zeros(9, 3, dtype=torch.float64)
    for b, h, w in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5)).tolist():
        expected[indices[b, h, w]] += cotangent[b, :, h, w].double()
    assert_close(to_codebook, expected, dtype=torch.float32, rtol=1e-5, what="gradient by the codebook")


@pytest.mark.grades("VectorQuantizer")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("decay", [0.8, 0.3, 0.0])
def test_quantizer_learns_after_it_looked_up(decay, generator):
    """In training: codes from before the batch, then a moving average over all its vectors; a decay of 0 is one too."""
    quantizer, z = quantizer_and_map((2, 3, 4, 5), generator, decay=decay)
    assert quantizer.training
    for step in range(3):
        before = state_of(quantizer)
        vectors = z.permute(0, 2, 3, 1)
        indices = squared_distances(vectors, before[0]).argmin(-1)
        with unchanged(z):
            codes, got = quantizer(z.clone().requires_grad_() if step else z)
        after = averaged(*before, vectors.flatten(0, 2), indices.flatten(), decay)
        moved = {
            "the codes are from after the update: look them up before this batch moves them": look_up(
                after[0], indices
            ),
            "quantised with the codebook that has just moved": look_up(
                after[0], squared_distances(vectors, after[0]).argmin(-1)
            ),
        }
        expected = look_up(before[0], indices)
        assert_close(codes.detach(), expected, rtol=1e-6, what=f"codes of batch {step}", mistakes=moved)
        assert_close(
            got, indices, what=f"indices of batch {step}", hint="indices of the codes from before the update"
        )
        for name, now, old, wanted in zip(STATE, state_of(quantizer), before, after, strict=True):
            still = f"{name} did not move in training, with decay={decay}"
            assert not torch.equal(now, old), still
            how = {
                "dtype": torch.float32,
                "rtol": 1e-5,
                "hint": f"ema_update gets another batch or another decay than {decay}",
            }
            assert_close(now, wanted, what=f"{name} after batch {step}", **how)
            assert not getattr(quantizer, name).requires_grad, (
                f"{name} carries a gradient from batch to batch"
            )
        z = z + normal(*z.shape, generator=generator)


@pytest.mark.grades("VectorQuantizer")
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("case", ["evaluation", "no decay"])
def test_quantizer_does_not_learn(case, generator):
    """Nothing moves in evaluation; and without decay never, since the gradient does that."""
    quantizer, z = quantizer_and_map((2, 3, 4, 5), generator, decay=0.7 if case == "evaluation" else None)
    quantizer.train(case == "no decay")
    before = state_of(quantizer)
    quantizer(z)
    for name, now, old in zip(STATE, state_of(quantizer), before, strict=True):
        assert torch.equal(now, old), f"{name} moved in a forward pass: {case}"


@pytest.mark.grades("nearest_codes", "ema_update", "VectorQuantizer")
@pytest.mark.parametrize("decay", [None, 0.6])
def test_whole_quantizer(decay, generator):
    """All parts yours: two batches."""
    quantizer, z = quantizer_and_map((3, 4, 2, 5), generator, decay=decay)
    for _ in range(2):
        before, vectors = state_of(quantizer), z.permute(0, 2, 3, 1)
        indices = squared_distances(vectors, before[0]).argmin(-1)
        codes, got = quantizer(z)
        assert_close(got, indices, what="indices")
        assert_close(codes.detach(), look_up(before[0], indices), rtol=1e-6, what="codes")
        if decay is not None:
            after = averaged(*before, vectors.flatten(0, 2), indices.flatten(), decay)
            for name, now, wanted in zip(STATE, state_of(quantizer), after, strict=True):
                assert_close(now, wanted, dtype=torch.float32, rtol=1e-5, what=name)
        z = z + 1

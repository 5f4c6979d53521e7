"""residual.py: one codebook after the other. Oracles: values worked by hand, loops in float64, laws, vector-quantize-pytorch."""

import lent
import oracles
import pytest
import torch
from oracles import gradients, normal, seeded

import residual
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged

pytestmark = pytest.mark.module("residual")


@pytest.fixture(autouse=True)
def lent_units(monkeypatch):
    lent.lend(monkeypatch, residual)


def by_loops(z, codebooks, wrong=None):
    """Return indices and sums, vector by vector and level by level in float64; `wrong` makes one mistake."""
    indices, sums = [], []
    for vector in z.detach().double().reshape(-1, z.shape[-1]):
        rest, total, row = vector, torch.zeros_like(vector), []
        for codebook in codebooks.detach().double():
            k = lent.nearest(vector if wrong == "z again" else rest, codebook)
            code = codebook[k]
            rest = (
                vector - code
                if wrong == "last code only"
                else rest + code
                if wrong == "sign"
                else rest - code
            )
            total = code if wrong == "last" else total + code
            row.append(k)
        indices.append(torch.tensor(row))
        sums.append(total)
    shape = z.shape[:-1]
    return torch.stack(indices).view(*shape, -1), torch.stack(sums).view(z.shape)


DIAGNOSES = {
    "z again": "each level quantises z itself: from the second on it is what is left over",
    "last code only": "the leftover is z minus the last code: it is z minus the sum of all codes so far",
    "sign": "the code is added to what is left over, not subtracted",
    "last": "these are the codes of the last level: z_q is the sum over the levels",
}


def check(got, z, codebooks, what, hint=None):
    """Compare (indices, sums) with the loops."""
    assert isinstance(got, tuple), f"{what} returns a tuple, indices and the sums of codes"
    indices, codes = got
    expected, sums = by_loops(z, codebooks)
    wrong = {text: by_loops(z, codebooks, name) for name, text in DIAGNOSES.items()}
    mistakes = {text: pair[0] for text, pair in wrong.items()}
    mistakes["the levels are on the first axis: they belong on the last"] = expected.movedim(-1, 0)
    assert_close(indices, expected, what=f"{what}: indices", mistakes=mistakes, hint=hint)
    mistakes = {text: pair[1] for text, pair in wrong.items()}
    mistakes["this is what is left over: return the sum of the codes"] = z.detach() - sums
    assert_close(
        codes, sums, dtype=z.dtype, n=z.shape[-1], what=f"{what}: codes", mistakes=mistakes, hint=hint
    )


@pytest.mark.grades
def test_residual_imports():
    """The module uses torch and the core, nothing else."""
    assert_imports_only(residual, {"torch", "vq_vae"})


@pytest.mark.grades("residual_codes")
def test_residual_codes_by_hand():
    """(5, 1) is (4, 0) and (1, 0) and (0, 1); each level sees what is left."""
    codebooks = torch.tensor([[[0.0, 4], [4, 0]], [[1.0, 0], [4, 1]], [[5.0, 1], [0, 1]]])
    z = torch.tensor([[5.0, 1.0], [1.0, 5.0]])
    check(residual.residual_codes(z, codebooks), z, codebooks, "residual codes")
    indices, codes = residual.residual_codes(z, codebooks)
    assert indices.tolist() == [[1, 0, 1], [0, 0, 1]], (
        f"by hand (1, 0, 1) and (0, 0, 1), got {indices.tolist()}"
    )
    assert codes.tolist() == [[5, 1], [1, 5]], f"by hand the sums are z itself, got {codes.tolist()}"


@pytest.mark.grades("residual_codes")
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 4, 3, 5)], ids=str)
def test_residual_codes_equal_loops(shape, generator):
    """Three levels of six codes, any leading axes, inputs left alone."""
    codebooks, z = normal(3, 6, 5, generator=generator), normal(*shape, generator=generator)
    with unchanged(z, codebooks):
        got = residual.residual_codes(z, codebooks)
    check(got, z, codebooks, f"residual codes of {shape}")


@pytest.mark.grades("residual_codes")
def test_one_level_is_the_plain_quantiser(generator):
    """With one codebook there is nothing left to do."""
    z, codebook = normal(4, 3, 5, generator=generator), normal(7, 5, generator=generator)
    indices, codes = residual.residual_codes(z, codebook[None])
    plain = oracles.nearest_codes(z, codebook)
    assert_close(
        indices, plain[..., None], what="indices of one level", hint="the nearest code of the only codebook"
    )
    assert_close(
        codes, codebook[plain], what="codes of one level", hint="one level gives the nearest code itself"
    )


@pytest.mark.grades("residual_codes")
def test_error_never_grows(generator):
    """Where each codebook holds the zero vector, a level may leave things as they are: no vector gets worse by it."""
    z, codebooks = normal(50, 4, generator=generator), normal(6, 5, 4, generator=generator, scale=0.6)
    codebooks[:, 2] = 0
    errors = torch.stack(
        [(residual.residual_codes(z, codebooks[:n])[1] - z).norm(dim=-1) for n in range(1, 7)]
    )
    worse = (errors[1:] > errors[:-1] + 1e-6).sum().item()
    assert not worse, f"{worse} times a further level made an error larger: the zero vector was nearer"
    assert errors[-1].mean() < 0.8 * errors[0].mean(), "six levels are hardly better than one"


@pytest.mark.grades("residual_codes")
def test_first_levels_do_not_know_the_later_ones(generator):
    """The indices of the first n levels are those of a quantiser that has only these."""
    z, codebooks = normal(40, 3, generator=generator), normal(4, 5, 3, generator=generator)
    indices, _ = residual.residual_codes(z, codebooks)
    for n in (1, 2, 3):
        fewer, _ = residual.residual_codes(z, codebooks[:n])
        assert torch.equal(fewer, indices[:, :n]), (
            f"the first {n} of 4 indices differ from those of {n} levels alone"
        )


@pytest.mark.grades("residual_codes")
def test_residual_codes_gradient(generator):
    """A gradient goes to each code as often as it is summed, and none to z."""
    z = normal(20, 3, generator=generator).requires_grad_()
    codebooks, cotangent = (
        normal(2, 4, 3, generator=generator).requires_grad_(),
        normal(20, 3, generator=generator),
    )
    indices, codes = residual.residual_codes(z, codebooks)
    by_z, by_codes = gradients(codes, (z, codebooks), cotangent)
    expected = torch.zeros(2, 4, 3, dtype=torch.float64)
    for row, ct in zip(indices.tolist(), cotangent.double(), strict=True):
        for level, k in enumerate(row):
            expected[level, k] += ct
    assert not by_z.any(), "z gets a gradient: the codes are looked up, they do not depend on z smoothly"
    hint = "each code gets the gradients of the sums that it is in"
    assert_close(by_codes, expected, dtype=torch.float32, n=20, what="gradient by the codebooks", hint=hint)


@pytest.mark.grades("decode_residual")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_decode_residual(n, generator):
    """The first n levels alone, any leading axes."""
    codebooks = normal(3, 6, 5, generator=generator)
    indices = torch.randint(6, (2, 4, n), generator=generator)
    expected = sum(codebooks[level].double()[indices[..., level]] for level in range(n))
    mistakes = {
        "all indices are looked up in the first codebook": lambda: codebooks[0][indices].sum(-2).double(),
        "the codes are averaged, not summed": expected / n if n > 1 else None,
        "the last codebooks are used, not the first": lambda: sum(
            codebooks[3 - n + level].double()[indices[..., level]] for level in range(n)
        ),
    }
    got = residual.decode_residual(indices, codebooks)
    assert_close(got, expected, dtype=torch.float32, n=5, what=f"decoded, {n} of 3 levels", mistakes=mistakes)


@pytest.mark.grades("decode_residual")
def test_decode_refuses_more_levels():
    """Four indices for three codebooks are refused."""
    with expect_error(ValueError, "4", "3", otherwise="4 indices for 3 levels are accepted"):
        residual.decode_residual(torch.zeros(2, 4, dtype=torch.long), torch.ones(3, 6, 5))


# --- the module -------------------------------------------------------------------------------------------------------


def codebooks_of(quantizer):
    """Return its codebooks (N, K, d), a copy."""
    levels = getattr(quantizer, "levels", None)
    assert isinstance(levels, torch.nn.ModuleList), "`levels` is an nn.ModuleList of VectorQuantizer"
    return torch.stack([level.codebook.detach().clone() for level in levels])


@pytest.mark.grades("ResidualQuantizer")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_residual_quantizer_is_made(decay):
    """N codebooks (K, d), all different, drawn from the generator one after the other; parameters only without decay."""
    quantizer = residual.ResidualQuantizer(3, 6, 5, decay=decay, generator=seeded(1))
    codebooks = codebooks_of(quantizer)
    assert codebooks.shape == (3, 6, 5), f"3 levels of 6 codes of 5 numbers, got {tuple(codebooks.shape)}"
    generator = seeded(1)
    expected = torch.stack(
        [oracles.VectorQuantizer(6, 5, generator=generator).codebook.detach() for _ in range(3)]
    )
    hint = "each level draws its own codes with the generator"
    assert_close(
        codebooks,
        expected,
        what="codebooks",
        hint=hint,
        mistakes={"all levels start alike": expected[[0, 0, 0]]},
    )
    n = len(list(quantizer.parameters()))
    assert n == (3 if decay is None else 0), (
        f"decay={decay} makes {n} parameters: is it handed to each level?"
    )


@pytest.mark.grades("ResidualQuantizer")
@pytest.mark.parametrize("training", [False, True])
def test_residual_quantizer_forward(training, generator):
    """Codes (B, d, H, W) and indices (B, H, W, N) of a feature map; channels are the vector."""
    quantizer = residual.ResidualQuantizer(3, 6, 5, generator=seeded(1)).train(training)
    z = normal(2, 5, 3, 4, generator=generator)
    with unchanged(z):
        codes, indices = quantizer(z)
    assert codes.shape == z.shape, f"codes of shape {tuple(codes.shape)} for a feature map {tuple(z.shape)}"
    assert indices.shape == (2, 3, 4, 3), f"indices are (B, H, W, N), got {tuple(indices.shape)}"
    check((indices, codes.movedim(1, -1)), z.movedim(1, -1), codebooks_of(quantizer), "forward")


@pytest.mark.grades("ResidualQuantizer")
def test_residual_quantizer_moves_each_level():
    """Each level averages what the levels before left over, and the codes are from before the batch moved any."""
    quantizer = residual.ResidualQuantizer(3, 4, 5, decay=0.7, generator=seeded(1))
    before, z = codebooks_of(quantizer), normal(3, 5, 2, 4, generator=seeded(2))
    codes, indices = quantizer(z)
    vectors = lent.channels_last(z)
    chosen, _ = by_loops(vectors, before)
    hint = "codes, and what they leave over, are from before this batch moves any"
    check((indices.reshape(-1, 3), lent.channels_last(codes)), vectors, before, "forward in training", hint)
    rest, ones = vectors.double(), torch.ones(4, dtype=torch.float64)
    for n, level in enumerate(quantizer.levels):
        state = before[n], ones, before[n]
        expected = oracles.averaged(*state, rest, chosen[:, n], 0.7)
        mistakes = {"every level moves towards z itself, not towards what is left over": None}
        if n:
            mistakes = dict.fromkeys(mistakes, oracles.averaged(*state, vectors, chosen[:, n], 0.7)[0])
            mistakes["codes do not move in training"] = before[n]
        for name, wanted in zip(("codebook", "counts", "sums"), expected, strict=True):
            hint = f"level {n}: the moving average of what the levels before left over"
            given = mistakes if name == "codebook" else None
            got = getattr(level, name)
            assert_close(
                got,
                wanted,
                dtype=torch.float32,
                rtol=1e-4,
                what=f"{name} of level {n}",
                mistakes=given,
                hint=hint,
            )
        rest = rest - before[n].double()[chosen[:, n]]
    moved = codebooks_of(quantizer)
    quantizer.eval()(z)
    assert torch.equal(codebooks_of(quantizer), moved), "codes move in evaluation too"


@pytest.mark.grades("ResidualQuantizer")
def test_residual_quantizer_gradient(generator):
    """The sums carry a gradient to the codes of each level; z gets none."""
    quantizer = residual.ResidualQuantizer(2, 4, 5, generator=seeded(1))
    z, cotangent = (
        normal(2, 5, 3, 4, generator=generator).requires_grad_(),
        normal(2, 5, 3, 4, generator=generator),
    )
    codes, indices = quantizer(z)
    by_z, *by_levels = gradients(codes, (z, *(level.codebook for level in quantizer.levels)), cotangent)
    assert not by_z.any(), "z gets a gradient: what is left over is only for the choice"
    for n, got in enumerate(by_levels):
        expected = torch.zeros(4, 5, dtype=torch.float64)
        expected.index_add_(0, indices[..., n].flatten(), lent.channels_last(cotangent).double())
        hint = "each code gets the gradients of the sums that it is in"
        assert_close(got, expected, dtype=torch.float32, n=24, what=f"gradient of level {n}", hint=hint)


@pytest.mark.grades("ResidualQuantizer")
def test_residual_quantizer_restarts():
    """Dead codes of a level become what the levels before, already restarted, leave over."""
    quantizer = residual.ResidualQuantizer(3, 4, 5, decay=0.9, generator=seeded(1))
    before, z = codebooks_of(quantizer), normal(30, 5, generator=seeded(2))
    usage = torch.tensor([[3.0, 0, 0, 2], [1, 1, 1, 1], [0, 5, 0, 0]])
    generator = seeded(3)
    state = generator.get_state()
    with unchanged(z, usage):
        n = quantizer.restart(usage, z, generator=generator)
    assert n == 5, f"5 codes are dead, {n} are said to have restarted"
    assert not torch.equal(generator.get_state(), state), (
        "the rows are not drawn with the generator that is passed"
    )
    after, rest = codebooks_of(quantizer), z
    for level, used in enumerate(usage > 0):
        stay = torch.equal(after[level][used], before[level][used])
        assert stay, f"level {level}: a code that is in use was restarted"
        gaps = [(rest - code).abs().amax(dim=1).min().item() for code in after[level][~used]]
        assert max(gaps, default=0) < 1e-5, (
            f"level {level}: a new code is not among what the levels before left over: "
            "they become z minus the codes of the restarted levels"
        )
        rest = rest - after[level][oracles.nearest_codes(rest, after[level])]
    lengths = residual.ResidualQuantizer(3, 4, 5, decay=0.9)
    with expect_error(ValueError, otherwise="usage of two levels is accepted for three"):
        lengths.restart(usage[:2], z)


@pytest.mark.grades("ResidualQuantizer")
def test_residual_with_vector_quantize_pytorch(generator):
    """The library's residual quantiser, with the same codebooks, chooses the same codes."""
    from vector_quantize_pytorch import ResidualVQ

    quantizer = residual.ResidualQuantizer(3, 6, 5, generator=seeded(1)).eval()
    library = ResidualVQ(dim=5, num_quantizers=3, codebook_size=6).eval()
    for layer, codebook in zip(library.layers, codebooks_of(quantizer), strict=True):
        layer._codebook.embed.data.copy_(codebook[None])
    z = normal(2, 5, 3, 4, generator=generator)
    with torch.no_grad():
        theirs, chosen, _ = library(z.permute(0, 2, 3, 1).reshape(2, 12, 5))
        codes, indices = quantizer(z)
    assert torch.equal(indices.view(2, 12, 3), chosen), (
        "other indices than vector-quantize-pytorch's ResidualVQ"
    )
    assert_close(
        codes.flatten(2).mT, theirs, n=5, what="codes, beside vector-quantize-pytorch", hint="other codes"
    )

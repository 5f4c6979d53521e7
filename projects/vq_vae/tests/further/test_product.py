"""product.py: a codebook per group. Oracles: values worked by hand, all K^G combinations, loops in float64."""

import itertools

import lent
import oracles
import pytest
import torch
from oracles import gradients, normal, seeded

import product
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged

pytestmark = pytest.mark.module("product")


decode_product = product.decode_product  # what is graded; the other tests get a right one


@pytest.fixture(autouse=True)
def lent_units(monkeypatch):
    lent.lend(monkeypatch, product)
    monkeypatch.setattr(product, "decode_product", by_columns)


def by_columns(indices, codebooks):
    """Look the codes up group by group, and join them."""
    return torch.cat([codebook[indices[..., g]] for g, codebook in enumerate(codebooks)], dim=-1)


def by_brute_force(z, codebooks):
    """Return the indices and codes of the nearest of all combinations, by all their distances in float64."""
    G, K, _ = codebooks.shape
    rows = list(itertools.product(range(K), repeat=G))
    whole = torch.stack([torch.cat([codebooks[g, k] for g, k in enumerate(row)]) for row in rows]).double()
    vectors = z.detach().double().reshape(-1, z.shape[-1])
    best = [lent.nearest(vector, whole) for vector in vectors]
    indices = torch.tensor([rows[i] for i in best]).view(*z.shape[:-1], G)
    return indices, whole[best].view(z.shape)


def interleaved(z, codebooks, *, first=False):
    """Return (indices, codes) of two mistakes: groups of channels G apart, or all groups by the first codebook."""
    G, K, width = codebooks.shape
    if first:
        return by_brute_force(z, codebooks[:1].expand(G, K, width))
    indices, codes = by_brute_force(z.unflatten(-1, (width, G)).mT.flatten(-2), codebooks)
    return indices, codes.unflatten(-1, (G, width)).mT.flatten(-2)


def check(got, z, codebooks, what):
    """Compare (indices, codes) with all combinations."""
    assert isinstance(got, tuple), f"{what} returns a tuple, indices and codes"
    indices, codes = got
    expected, nearest = by_brute_force(z, codebooks)
    apart, first = interleaved(z, codebooks), interleaved(z, codebooks, first=True)
    mistakes = {
        "a group is every G-th channel: it is d/G channels that follow one another": (apart[0], apart[1]),
        "all groups use the first codebook": (first[0], first[1]),
        "the groups are on the first axis of the indices: they belong on the last": (
            expected.movedim(-1, 0),
            None,
        ),
        "the groups are in reverse order": (expected.flip(-1), None),
    }
    for i, (name, actual, oracle) in enumerate((("indices", indices, expected), ("codes", codes, nearest))):
        found = {text: pair[i] for text, pair in mistakes.items() if pair[i] is not None}
        dtype = None if i == 0 else z.dtype
        hint = "not the nearest of all combinations"
        assert_close(actual, oracle, dtype=dtype, what=f"{what}: {name}", mistakes=found, hint=hint)


@pytest.mark.grades
def test_product_imports():
    """The module uses torch and the core, nothing else."""
    assert_imports_only(product, {"torch", "vq_vae"})


@pytest.mark.grades("product_codes")
def test_product_codes_by_hand():
    """Two groups of two channels: (0, 9) and (3, 1) in (1, 8, 3, 2)."""
    codebooks = torch.tensor([[[7.0, 1], [0, 9]], [[3.0, 1], [8, 8]]])
    z = torch.tensor([[1.0, 8, 3, 2], [8, 2, 9, 6]])
    check(product.product_codes(z, codebooks), z, codebooks, "product codes")
    indices, codes = product.product_codes(z, codebooks)
    assert indices.tolist() == [[1, 0], [0, 1]], f"by hand (1, 0) and (0, 1), got {indices.tolist()}"
    assert codes.tolist() == [[0, 9, 3, 1], [7, 1, 8, 8]], (
        f"the codes stand side by side, got {codes.tolist()}"
    )


@pytest.mark.grades("product_codes")
@pytest.mark.parametrize("G", [1, 2, 3])
@pytest.mark.parametrize("shape", [(6,), (11, 6), (2, 4, 3, 6)], ids=str)
def test_product_codes_are_the_nearest_of_all(shape, G):
    """The nearest of all K^G combinations, any leading axes, inputs left alone."""
    generator = seeded(8)
    z, codebooks = normal(*shape, generator=generator), normal(G, 4, 6 // G, generator=generator)
    codebooks = codebooks + torch.arange(G)[:, None, None] / 2
    with unchanged(z, codebooks):
        got = product.product_codes(z, codebooks)
    if G == 1 and len(shape) == 1:
        assert got[0].tolist() == by_brute_force(z, codebooks)[0].tolist(), (
            "one vector, one group: the nearest code"
        )
    else:
        check(got, z, codebooks, f"product codes of {shape} in {G} groups")


@pytest.mark.grades("product_codes")
def test_one_group_is_the_plain_quantiser(generator):
    """One group of all channels: the nearest code."""
    z, codebook = normal(4, 3, 5, generator=generator), normal(7, 5, generator=generator)
    indices, codes = product.product_codes(z, codebook[None])
    plain = oracles.nearest_codes(z, codebook)
    assert_close(
        indices, plain[..., None], what="indices of one group", hint="the nearest code of the only codebook"
    )
    assert_close(
        codes, codebook[plain], what="codes of one group", hint="one group gives the nearest code itself"
    )


@pytest.mark.grades("product_codes")
@pytest.mark.parametrize(("d", "G"), [(5, 2), (8, 3)])
def test_product_codes_refuse_other_widths(d, G):
    """Channels that do not split evenly are refused."""
    with expect_error(ValueError, str(d), str(G), otherwise=f"{d} channels are accepted in {G} groups"):
        product.product_codes(torch.ones(4, d), torch.ones(G, 3, d // G))


@pytest.mark.grades("product_codes")
def test_product_codes_gradient(generator):
    """A gradient goes to each code as often as it is chosen, and none to z."""
    z = normal(20, 6, generator=generator).requires_grad_()
    codebooks, cotangent = (
        normal(2, 4, 3, generator=generator).requires_grad_(),
        normal(20, 6, generator=generator),
    )
    indices, codes = product.product_codes(z, codebooks)
    by_z, by_codes = gradients(codes, (z, codebooks), cotangent)
    expected = torch.zeros(2, 4, 3, dtype=torch.float64)
    for row, ct in zip(indices.tolist(), cotangent.double(), strict=True):
        expected[0, row[0]] += ct[:3]
        expected[1, row[1]] += ct[3:]
    assert not by_z.any(), "z gets a gradient: the codes are looked up, they do not depend on z smoothly"
    hint = "each code gets the gradients of its own channels"
    assert_close(by_codes, expected, dtype=torch.float32, n=20, what="gradient by the codebooks", hint=hint)


@pytest.mark.grades("decode_product")
@pytest.mark.parametrize("shape", [(), (7,), (2, 4, 5)], ids=str)
def test_decode_product(shape, generator):
    """The codes side by side, any leading axes."""
    codebooks = normal(3, 6, 2, generator=generator)
    indices = torch.randint(6, (*shape, 3), generator=generator)
    rows = [
        torch.cat([codebooks[g, k] for g, k in enumerate(row)]) for row in indices.reshape(-1, 3).tolist()
    ]
    expected = torch.stack(rows).view(*shape, 6)
    mistakes = {
        "all groups are looked up in the first codebook": lambda: codebooks[0][indices].flatten(-2),
        "the channels of the groups are interleaved: they stand side by side": lambda: expected.unflatten(
            -1, (3, 2)
        ).mT.flatten(-2),
        "the groups have an axis of their own": lambda: expected.unflatten(-1, (3, 2)),
    }
    got = decode_product(indices, codebooks)
    assert_close(got, expected, what=f"decoded indices {(*shape, 3)}", mistakes=mistakes, hint="other codes")


# --- the module -------------------------------------------------------------------------------------------------------


def codebooks_of(quantizer):
    """Return its codebooks (G, K, d/G), a copy."""
    groups = getattr(quantizer, "groups", None)
    assert isinstance(groups, torch.nn.ModuleList), "`groups` is an nn.ModuleList of VectorQuantizer"
    return torch.stack([group.codebook.detach().clone() for group in groups])


@pytest.mark.grades("ProductQuantizer")
@pytest.mark.parametrize("decay", [None, 0.9])
def test_product_quantizer_is_made(decay):
    """G codebooks (K, d/G), all different, drawn from the generator one after the other; parameters only without decay."""
    quantizer = product.ProductQuantizer(3, 5, 6, decay=decay, generator=seeded(1))
    codebooks = codebooks_of(quantizer)
    assert codebooks.shape == (3, 5, 2), f"3 groups of 5 codes of 6/3 numbers, got {tuple(codebooks.shape)}"
    generator = seeded(1)
    expected = torch.stack(
        [oracles.VectorQuantizer(5, 2, generator=generator).codebook.detach() for _ in range(3)]
    )
    hint = "each group draws its own codes with the generator"
    assert_close(
        codebooks,
        expected,
        what="codebooks",
        hint=hint,
        mistakes={"all groups start alike": expected[[0, 0, 0]]},
    )
    n = len(list(quantizer.parameters()))
    assert n == (3 if decay is None else 0), (
        f"decay={decay} makes {n} parameters: is it handed to each group?"
    )
    with expect_error(ValueError, "7", "3", otherwise="7 channels in 3 groups are accepted"):
        product.ProductQuantizer(3, 5, 7)


@pytest.mark.grades("ProductQuantizer")
@pytest.mark.parametrize("training", [False, True])
def test_product_quantizer_forward(training, generator):
    """Codes (B, d, H, W) and indices (B, H, W, G) of a feature map; the channels are what is split."""
    quantizer = product.ProductQuantizer(2, 4, 6, generator=seeded(1)).train(training)
    z = normal(2, 6, 3, 4, generator=generator)
    with unchanged(z):
        codes, indices = quantizer(z)
    assert codes.shape == z.shape, f"codes of shape {tuple(codes.shape)} for a feature map {tuple(z.shape)}"
    assert indices.shape == (2, 3, 4, 2), f"indices are (B, H, W, G), got {tuple(indices.shape)}"
    check((indices, codes.movedim(1, -1)), z.movedim(1, -1), codebooks_of(quantizer), "forward")


@pytest.mark.grades("ProductQuantizer")
def test_product_quantizer_refuses_other_maps():
    """A feature map whose channels do not split evenly is refused."""
    with expect_error(ValueError, "5", "2", otherwise="5 channels in 2 groups are accepted"):
        product.ProductQuantizer(2, 4, 6)(torch.ones(2, 5, 3, 4))


@pytest.mark.grades("ProductQuantizer")
def test_product_quantizer_moves_each_group():
    """Each group averages its own channels, and the codes are from before the batch moved any."""
    quantizer = product.ProductQuantizer(2, 4, 6, decay=0.7, generator=seeded(1))
    before, z = codebooks_of(quantizer), normal(3, 6, 2, 4, generator=seeded(2))
    codes, indices = quantizer(z)
    vectors = lent.channels_last(z)
    check((indices.reshape(-1, 2), lent.channels_last(codes)), vectors, before, "forward in training")
    for g, group in enumerate(quantizer.groups):
        state = before[g], torch.ones(4, dtype=torch.float64), before[g]
        mine, chosen = vectors[:, 3 * g : 3 * g + 3], by_brute_force(vectors, before)[0][:, g]
        expected = oracles.averaged(*state, mine, chosen, 0.7)
        for name, wanted in zip(("codebook", "counts", "sums"), expected, strict=True):
            hint = f"group {g}: the moving average of its own channels"
            mistakes = {"codes do not move in training": before[g]} if name == "codebook" else None
            got = getattr(group, name)
            assert_close(
                got,
                wanted,
                dtype=torch.float32,
                rtol=1e-4,
                what=f"{name} of group {g}",
                hint=hint,
                mistakes=mistakes,
            )
    moved = codebooks_of(quantizer)
    quantizer.eval()(z)
    assert torch.equal(codebooks_of(quantizer), moved), "codes move in evaluation too"


@pytest.mark.grades("ProductQuantizer")
def test_product_quantizer_gradient(generator):
    """The codes carry a gradient to each group's codebook; z gets none."""
    quantizer = product.ProductQuantizer(2, 4, 6, generator=seeded(1))
    z, cotangent = (
        normal(2, 6, 3, 4, generator=generator).requires_grad_(),
        normal(2, 6, 3, 4, generator=generator),
    )
    codes, indices = quantizer(z)
    by_z, *by_groups = gradients(codes, (z, *(group.codebook for group in quantizer.groups)), cotangent)
    assert not by_z.any(), "z gets a gradient: the codes are looked up"
    for g, got in enumerate(by_groups):
        expected = torch.zeros(4, 3, dtype=torch.float64)
        part = lent.channels_last(cotangent).double()[:, 3 * g : 3 * g + 3]
        expected.index_add_(0, indices[..., g].flatten(), part)
        hint = "each code gets the gradients of its own channels"
        assert_close(got, expected, dtype=torch.float32, n=24, what=f"gradient of group {g}", hint=hint)


@pytest.mark.grades("ProductQuantizer")
def test_product_quantizer_restarts():
    """Dead codes of a group become its part of vectors, each group for itself."""
    quantizer = product.ProductQuantizer(3, 4, 6, decay=0.9, generator=seeded(1))
    before, z = codebooks_of(quantizer), normal(30, 6, generator=seeded(2))
    usage = torch.tensor([[3.0, 0, 0, 2], [1, 1, 1, 1], [0, 5, 0, 0]])
    generator = seeded(3)
    state = generator.get_state()
    with unchanged(z, usage):
        n = quantizer.restart(usage, z, generator=generator)
    assert n == 5, f"5 codes are dead, {n} are said to have restarted"
    assert not torch.equal(generator.get_state(), state), (
        "the rows are not drawn with the generator that is passed"
    )
    after = codebooks_of(quantizer)
    for g, used in enumerate(usage > 0):
        assert torch.equal(after[g][used], before[g][used]), f"group {g}: a code that is in use was restarted"
        part = z[:, 2 * g : 2 * g + 2]
        gaps = [(part - code).abs().amax(dim=1).min().item() for code in after[g][~used]]
        assert max(gaps, default=0) < 1e-6, f"group {g}: a new code is not among its channels of the vectors"
    with expect_error(ValueError, otherwise="usage of two groups is accepted for three"):
        product.ProductQuantizer(3, 4, 6, decay=0.9).restart(usage[:2], z)

"""The core's functions without a state: the nearest code, the straight-through gradient, the losses, perplexity.

Oracles: values worked by hand, all distances in float64, closed forms of the gradients.
"""

import math

import pytest
import torch
from oracles import gradients, normal, squared_distances

import vq_vae
from shared.testing.checks import assert_close, assert_imports_only, expect_error, unchanged


@pytest.mark.grades
def test_imports():
    """The deliverable uses torch, nothing else."""
    assert_imports_only(vq_vae, {"torch"})


# --- nearest_codes ----------------------------------------------------------------------------------------------------


def check_nearest(z, codebook, what):
    """Compare with all distances in float64; of two codes that float32 cannot tell apart, either will do."""
    distances = squared_distances(z, codebook)
    expected = distances.argmin(-1)
    with unchanged(z, codebook):
        got = vq_vae.nearest_codes(z, codebook)
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    assert got.dtype == torch.int64, f"{what}: indices are int64, got {got.dtype}"
    a, b = z.double(), codebook.double()
    mistakes = {
        "the code of the largest dot product is not the nearest: it prefers long codes": (a @ b.mT).argmax(
            -1
        ),
        "the code of the smallest dot product is taken": (a @ b.mT).argmin(-1),
        "‖z‖² - z·e + ‖e‖²: the product counts twice in ‖z - e‖²": (b.square().sum(-1) - a @ b.mT).argmin(-1),
        "this is cosine similarity, which forgets the length": (
            a @ torch.nn.functional.normalize(b, dim=-1).mT
        ).argmax(-1),
        "the farthest code is taken: argmax of the distances": distances.argmax(-1),
        "the distance is the sum of absolute differences, not of squares": (a[..., None, :] - b)
        .abs()
        .sum(-1)
        .argmin(-1),
        "the distance is the largest difference, not the sum of squares": (a[..., None, :] - b)
        .abs()
        .amax(-1)
        .argmin(-1),
        "the differences are summed without a square": (a[..., None, :] - b).sum(-1).argmin(-1),
    }
    if (got >= 0).all() and (got < len(codebook)).all():
        excess = distances.gather(-1, got[..., None])[..., 0] - distances.amin(-1)
        size = a.square().sum(-1) + b.square().sum(-1).max()
        got = torch.where(excess <= 1e-5 * size, expected, got)
    vacuous_ok = "one vector has one index" if expected.numel() == 1 else None
    hint = "these are not the codes of the smallest ‖z - e‖²"
    assert_close(got, expected, what=what, mistakes=mistakes, hint=hint, vacuous_ok=vacuous_ok)


@pytest.mark.grades("nearest_codes")
def test_nearest_by_hand():
    """Codes of unequal length: the largest dot product would be the long one, and the angle would forget lengths."""
    codebook = torch.tensor([[10.0, 10.0], [0.0, 0.0], [1.0, 0.0], [-1.0, -2.0], [2.2, 2.2]])
    z = torch.tensor([[0.8, 0.1], [0.3, 0.0], [-0.9, -1.2], [9.0, 4.0], [-3.0, -3.0], [1.2, 0.9]])
    expected = torch.tensor([2, 1, 3, 0, 3, 2])
    assert torch.equal(squared_distances(z, codebook).argmin(-1), expected)
    check_nearest(z, codebook, "indices of the nearest codes")


@pytest.mark.grades("nearest_codes")
@pytest.mark.parametrize("shape", [(40, 3), (5, 4, 3), (2, 4, 5, 3), (1, 3), (3,)], ids=str)
def test_nearest_equals_all_distances(shape, generator):
    """Leading axes of all kinds; codes short and long, and more of them than axes."""
    codebook = normal(7, 3, generator=generator) * torch.linspace(0.3, 3, 7)[:, None]
    check_nearest(2 * normal(*shape, generator=generator), codebook, f"indices for z of shape {shape}")


@pytest.mark.grades("nearest_codes")
@pytest.mark.parametrize(("n_codes", "d"), [(4, 4), (3, 9), (50, 2), (2, 1)])
def test_nearest_of_other_sizes(n_codes, d, generator):
    """As many codes as axes, fewer, many more; z is a view with its axes exchanged."""
    codebook = normal(n_codes, d, generator=generator) * torch.linspace(0.5, 2, n_codes)[:, None]
    z = normal(d, 6, 5, generator=generator).permute(2, 1, 0)
    check_nearest(z, codebook, f"indices among {n_codes} codes of size {d}")


@pytest.mark.grades("nearest_codes")
def test_nearest_beside_a_boundary(generator):
    """Vectors a little to one side of the middle between two codes; all numbers are exact in float32."""
    numbers = torch.randperm(9**3, generator=generator)[:12]
    codebook = torch.stack((numbers // 81 - 4, numbers // 9 % 9 - 4, numbers % 9 - 4), dim=1).float()
    between = squared_distances(codebook, codebook).fill_diagonal_(math.inf)
    neighbour = codebook[between.argmin(1)]
    z = (codebook + neighbour) / 2 + (codebook - neighbour) / 32
    hint = "a vector beside the middle of two codes gets the wrong one: is something rounded?"
    expected = squared_distances(z, codebook).argmin(-1)
    assert_close(vq_vae.nearest_codes(z, codebook), expected, what="indices near a boundary", hint=hint)


# --- straight_through -------------------------------------------------------------------------------------------------


@pytest.mark.grades("straight_through")
def test_straight_through_value(generator):
    """Forward it is z_q, as if z were not there; and nothing is written into the inputs."""
    z, z_q = 2 * normal(2, 3, 4, 5, generator=generator), normal(2, 3, 4, 5, generator=generator) - 1
    mistakes = {
        "the sides of the detach are exchanged: forward this is z, not z_q": z,
        "the codes are added to z": z + z_q,
        "this is the difference of z_q and z alone: add it to z": z_q - z,
        "the middle between z and z_q": (z + z_q) / 2,
    }
    with unchanged(z, z_q):
        got = vq_vae.straight_through(z, z_q)
    assert_close(got, z_q, rtol=1e-6, what="straight_through", mistakes=mistakes)


@pytest.mark.grades("straight_through")
@pytest.mark.parametrize("codes_learn", [True, False], ids=["z_q learns", "z_q is a constant"])
def test_straight_through_gradient(codes_learn, generator):
    """dL/dz is dL/dz_q to the last bit, and z_q gets nothing."""
    z = normal(2, 3, 4, 5, generator=generator).requires_grad_()
    z_q = normal(2, 3, 4, 5, generator=generator, scale=3.0).requires_grad_(codes_learn)
    cotangent = normal(2, 3, 4, 5, generator=generator)
    with unchanged(z, z_q):
        got = vq_vae.straight_through(z, z_q)
    assert got.requires_grad, (
        "no gradient reaches z: z itself is outside the detach, the difference is inside"
    )
    to_z = gradients(got, (z,), cotangent)[0]
    assert to_z.any(), "no gradient reaches z: of z + (z_q - z) the difference is detached, and nothing else"
    if codes_learn:
        to_z_q = gradients(got, (z_q,), cotangent)[0]
        assert not to_z_q.any(), (
            "z_q gets a gradient: the decoder's gradient goes to z alone, z_q is a constant"
        )
    assert torch.equal(to_z, cotangent), "dL/dz is not dL/dz_q: the gradient goes through unchanged"


@pytest.mark.grades("straight_through")
@pytest.mark.parametrize(
    "shapes", [((2, 3), (3,)), ((2, 3), (2, 1)), ((1, 3), (2, 3)), ((6,), (2, 3))], ids=str
)
def test_straight_through_refuses(shapes, generator):
    """Two shapes are refused, whether they would broadcast or hold as many numbers."""
    z, z_q = (normal(*shape, generator=generator) for shape in shapes)
    with expect_error(
        ValueError, otherwise=f"z {shapes[0]} and z_q {shapes[1]} are not refused by a ValueError"
    ):
        vq_vae.straight_through(z, z_q)


# --- vq_losses --------------------------------------------------------------------------------------------------------


def scalars(losses):
    """Return the three terms as one tensor, or say what is wrong with them."""
    assert isinstance(losses, tuple | list), f"vq_losses returns three scalars, got a {type(losses).__name__}"
    assert len(losses) == 3, f"vq_losses returns three scalars, got {len(losses)}"
    for name, loss in zip(("reconstruction", "codebook", "commitment"), losses, strict=True):
        assert loss.shape == (), (
            f"the {name} term is a scalar, a mean over all elements; its shape is {tuple(loss.shape)}"
        )
    return torch.stack(tuple(losses))


@pytest.mark.grades("vq_losses")
def test_losses_by_hand():
    """Differences of 3 in half of the pixels; of 1, 2, 3, 4 in z; β is 0.3, so that no sum over an axis undoes it."""
    x = torch.linspace(0, 1, 128).view(2, 1, 8, 8)
    reconstruction = x + 3 * (torch.arange(128) % 2).view(2, 1, 8, 8)
    z = torch.tensor([5.0, -1.0, 0.5, 2.0]).view(2, 2, 1, 1)
    z_q = z + torch.tensor([1.0, -2.0, 3.0, -4.0]).view(2, 2, 1, 1)
    mistakes = {
        "β belongs to the third term, the commitment, not to the codebook's": [4.5, 2.25, 7.5],
        "β is in both terms: it belongs to the commitment alone": [4.5, 2.25, 2.25],
        "beta is ignored": [4.5, 7.5, 7.5],
        "beta is 0.25 whatever is given": [4.5, 7.5, 1.875],
        "these are sums: squared errors are means over all elements": [576.0, 30.0, 9.0],
        "summed over one image's elements and averaged over the batch: squared errors are means over all elements": [
            288.0,
            15.0,
            4.5,
        ],
        "summed over the channels: squared errors are means over all elements": [4.5, 15.0, 4.5],
        "these are roots: the errors stay squared": [4.5**0.5, 7.5**0.5, 0.3 * 7.5**0.5],
        "these are absolute errors, not squared ones": [1.5, 2.5, 0.75],
        "half of the squared error": [2.25, 3.75, 1.125],
        "the reconstruction comes first: reconstruction, codebook, commitment": [7.5, 2.25, 4.5],
    }
    mistakes = {diagnosis: torch.tensor(values) for diagnosis, values in mistakes.items()}
    with unchanged(x, reconstruction, z, z_q):
        got = scalars(vq_vae.vq_losses(x, reconstruction, z, z_q, beta=0.3))
    assert_close(got, torch.tensor([4.5, 7.5, 2.25]), rtol=1e-5, what="three terms", mistakes=mistakes)


@pytest.mark.grades("vq_losses")
@pytest.mark.parametrize("beta", [None, 0.7, 2.0])
def test_losses_gradients(beta, generator):
    """Each term moves what it should, by 2·(difference)/(number of elements), and nothing else."""
    given, weight = ({}, 0.25) if beta is None else ({"beta": beta}, beta)
    x = torch.rand(3, 1, 8, 8, generator=generator)
    reconstruction = normal(3, 1, 8, 8, generator=generator).requires_grad_()
    z, z_q = (normal(3, 5, 4, 4, generator=generator).requires_grad_() for _ in range(2))
    losses = vq_vae.vq_losses(x, reconstruction, z, z_q, **given)
    with torch.no_grad():
        difference = (z_q.double() - z.double()) / z.numel()
        expected = torch.stack(
            [
                (x.double() - reconstruction.double()).square().mean(),
                difference.square().sum() * z.numel(),
                weight * difference.square().sum() * z.numel(),
            ]
        )
        to_reconstruction = 2 * (reconstruction.double() - x.double()) / x.numel()
    assert_close(scalars(losses), expected, dtype=torch.float32, rtol=1e-5, what=f"terms with beta={beta}")
    inputs = reconstruction, z, z_q
    names = "the reconstruction", "z", "z_q"
    wanted = {
        "reconstruction": (to_reconstruction, None, None),
        "codebook": (None, None, 2 * difference),
        "commitment": (None, -2 * weight * difference, None),
    }
    for (term, row), loss in zip(wanted.items(), losses, strict=True):
        got = gradients(loss, inputs)
        for name, mine, target in zip(names, got, row, strict=True):
            if target is None:
                assert not mine.any(), (
                    f"the {term} term moves {name}: which side is a constant for the gradient, sg?"
                )
        for name, mine, target in zip(names, got, row, strict=True):
            if target is not None:
                how = {"dtype": torch.float32, "rtol": 1e-5, "hint": f"the {term} term should move {name}"}
                assert_close(mine, target, what=f"gradient of the {term} term by {name}", **how)


@pytest.mark.grades("vq_losses")
@pytest.mark.parametrize("which", ["images", "vectors"])
def test_losses_refuse(which, generator):
    """Shapes that would broadcast are refused."""
    x, z = torch.rand(2, 1, 8, 8, generator=generator), normal(2, 3, 4, 4, generator=generator)
    given = [x, x.clone(), z, z.clone()]
    for position in (0, 1) if which == "images" else (2, 3):
        bad = list(given)
        bad[position] = bad[position][:1]
        case = f"two {which} of shapes {tuple(given[position].shape)} and {tuple(bad[position].shape)}"
        with expect_error(ValueError, otherwise=f"{case} are not refused by a ValueError"):
            vq_vae.vq_losses(*bad)
    flat = [x, x, z, z]
    flat[1 if which == "images" else 3] = x[:, 0] if which == "images" else z[..., 0]
    with expect_error(ValueError, otherwise=f"{which} that lack an axis are accepted"):
        vq_vae.vq_losses(*flat)


@pytest.mark.grades("straight_through", "vq_losses")
def test_who_moves_what(generator):
    """Together: the reconstruction moves the encoder's z and no code, through a decoder of one matrix."""
    z, z_q = (normal(2, 3, 4, 4, generator=generator).requires_grad_() for _ in range(2))
    matrix = normal(48, 64, generator=generator, scale=0.2)
    x = torch.rand(2, 1, 8, 8, generator=generator)
    reconstruction = (vq_vae.straight_through(z, z_q).flatten(1) @ matrix).view(2, 1, 8, 8)
    first, second, third = vq_vae.vq_losses(x, reconstruction, z, z_q, beta=0.6)
    to_z, to_z_q = gradients(first, (z, z_q))
    assert not to_z_q.any(), "the reconstruction moves the codes: behind straight_through z_q is a constant"
    error = z_q.detach().double().flatten(1) @ matrix.double() - x.double().flatten(1)
    through = (2 * error / error.numel() @ matrix.double().mT).view_as(z)
    assert_close(to_z, through, dtype=torch.float32, rtol=1e-4, what="gradient of the reconstruction by z")
    to_z, to_z_q = gradients(first + second + third, (z, z_q))
    difference = 2 * (z_q - z).detach().double() / z.numel()
    assert_close(
        to_z, through - 0.6 * difference, dtype=torch.float32, rtol=1e-4, what="gradient of the sum by z"
    )
    assert_close(to_z_q, difference, dtype=torch.float32, rtol=1e-4, what="gradient of the sum by z_q")


# --- perplexity -------------------------------------------------------------------------------------------------------

USAGES = {
    "unequal": ([1.0, 1.0, 2.0], 2**1.5),
    "unequal, with zeros": ([0.0, 3.0, 0.0, 3.0, 6.0, 0.0], 2**1.5),
    "integers": ([5, 0, 5, 10], 2**1.5),
    "one code": ([0.0, 7.0, 0.0], 1.0),
    "one code, integers": ([0, 0, 12345], 1.0),
    "equal use of all": ([4, 4, 4, 4, 4], 5.0),
    "equal use of some": ([0.0, 9.0, 9.0, 0.0, 9.0], 3.0),
    "shares": ([0.5, 0.25, 0.25], 2**1.5),
    "a rare code": ([999_999.0, 1.0], 1.0000148),
}


@pytest.mark.grades("perplexity")
@pytest.mark.parametrize("case", USAGES)
def test_perplexity_by_hand(case):
    """2·2^(1/2) where half of the vectors share one code and the others two; 1 for one; K for equal use."""
    values, expected = USAGES[case]
    usage = torch.tensor(values)
    with unchanged(usage):
        got = vq_vae.perplexity(usage)
    assert isinstance(got, torch.Tensor), f"perplexity returns a tensor, got a {type(got).__name__}"
    p = usage.double()[usage > 0] / usage.double().sum()
    entropy = -(p * p.log()).sum()
    mistakes = {
        "this is the entropy: its exponential is asked": entropy,
        "this is 2^entropy, but the logarithm is natural": 2**entropy,
        "the sign is wrong: exp(+Σ p·log p)": (-entropy).exp(),
        "this is the number of codes in use, whatever their shares": torch.tensor(float(len(p))),
        "this is 1/Σ p², not exp(-Σ p·log p)": 1 / p.square().sum(),
        "usage is not divided by its sum": (
            -(usage.double()[usage > 0] * usage.double()[usage > 0].log()).sum()
        ).exp(),
        "this is exp of the mean of -log p, not of its mean under p": (-p.log().mean()).exp(),
        "zeros give NaN: 0·log 0 is 0": math.nan,
    }
    mistakes = {k: v for k, v in mistakes.items() if not abs(float(v) - expected) < 1e-5}
    hint = f"perplexity of {values}"
    assert tuple(got.shape) == (), f"perplexity is a scalar, its shape is {tuple(got.shape)}"
    assert_close(
        got.double(),
        torch.tensor(expected).double(),
        rtol=1e-5,
        what="perplexity",
        mistakes=mistakes,
        hint=hint,
    )


@pytest.mark.grades("perplexity")
@pytest.mark.parametrize(
    "usage", [torch.zeros(4), torch.zeros(3, dtype=torch.int64)], ids=["float", "integers"]
)
def test_perplexity_refuses_no_usage(usage):
    """Nothing to divide by."""
    with expect_error(ValueError, otherwise="a usage of all zeros is accepted: no code was used"):
        vq_vae.perplexity(usage)

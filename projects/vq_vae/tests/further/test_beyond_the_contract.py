"""What goes beyond the plain contract of the core's functions."""

import pytest
import torch
from oracles import normal, squared_distances

import vq_vae
from shared.testing.checks import assert_close


@pytest.mark.grades("nearest_codes")
@pytest.mark.parametrize("offset", [4096.0, -65536.0])
def test_nearest_far_from_the_origin(offset, generator):
    """Codes and vectors that differ in their last bits: ‖z‖² - 2z·e + ‖e‖² has lost them; many vectors and codes, as for a cdist."""
    step = abs(offset) / 2**16
    codebook = offset + step * (16 * torch.rand(40, 3, generator=generator)).round()
    z = offset + step / 64 * normal(60, 3, generator=generator, scale=300.0).round()
    distances = squared_distances(z, codebook)
    first, second = distances.topk(2, largest=False).values.T
    clear = second - first > 1e-3 * second
    hint = "far from the origin ‖z‖² - 2z·e + ‖e‖² rounds the difference away: subtract first, then square"
    got = vq_vae.nearest_codes(z, codebook)
    assert_close(got[clear], distances.argmin(-1)[clear], what=f"indices at {offset:g}", hint=hint)

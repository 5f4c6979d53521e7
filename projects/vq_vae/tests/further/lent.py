"""What the further tests share: the core's units lent in other words, vectors, and codebooks that are not alike."""

import oracles
import torch

import vq_vae

UNITS = ("nearest_codes", "straight_through", "restart_dead_codes", "VectorQuantizer")


@torch.no_grad()
def restart_dead_codes(codebook, counts, sums, usage, z, *, generator=None):
    """Row after row: the next vector of a random order to the next dead code."""
    order = torch.randperm(len(z), generator=generator).tolist()
    dead = [k for k, used in enumerate(usage.tolist()) if used == 0][: len(z)]
    for k, row in zip(dead, order, strict=False):
        codebook[k], sums[k], counts[k] = z[row], z[row], 1
    return len(dead)


def lend(monkeypatch, module):
    """Give a module, and the core that it may ask by name, units that are right."""
    for name in UNITS:
        right = restart_dead_codes if name == "restart_dead_codes" else getattr(oracles, name)
        monkeypatch.setattr(vq_vae, name, right)
        monkeypatch.setattr(module, name, right, raising=False)


def nearest(vector, codebook):
    """Return the number of the code nearest to one vector (d,), by a loop in float64."""
    distances = [float((vector.double() - code.double()).square().sum()) for code in codebook]
    return distances.index(min(distances))


def channels_last(z):
    """Return the vectors (B·H·W, d) of a feature map."""
    return z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1])

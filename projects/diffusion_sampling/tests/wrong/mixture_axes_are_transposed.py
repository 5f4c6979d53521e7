# diagnosis: are the axes the columns
# module: exact


def _noisy(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    level = torch.as_tensor(sigma, dtype=self.means.dtype)
    level = level[..., None] if level.ndim else level
    offset = x.to(self.means.dtype)[:, None] - self.means
    return torch.einsum("ked,bkd->bke", self._axes, offset), self._variances + level**2


GaussianMixture._noisy = _noisy

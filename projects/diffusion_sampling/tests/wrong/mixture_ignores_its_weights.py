# diagnosis: log p(x; σ)
# module: exact


def _joint(self, x: Tensor, sigma: Tensor | float) -> Tensor:
    along, total = self._noisy(x, sigma)
    log_normal = -0.5 * (along**2 / total + total.log() + math.log(2 * math.pi)).sum(dim=-1)
    return log_normal - math.log(len(self.weights))


GaussianMixture._joint = _joint

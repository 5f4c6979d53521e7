# diagnosis: the exponent is -d²/σ²
# module: exact


def weights(self, x: Tensor, sigma: Tensor | float) -> Tensor:
    level = torch.as_tensor(sigma, dtype=x.dtype)
    level = level.reshape(len(x), 1) if level.ndim else level
    rows = x.flatten(1)
    # Differences, not |x|² - 2x·p + |p|²: at small σ the cancellation would be divided by σ².
    distances = torch.cdist(rows, self._rows, compute_mode="donot_use_mm_for_euclid_dist")
    return (-1.0 * (distances / level) ** 2).softmax(dim=-1)


Empirical.weights = weights

# diagnosis: churn_min and churn_max are ignored


def _churn_factors(levels: list[float], churn: float, low: float, high: float) -> list[float]:
    if not churn >= 0:
        raise ValueError(f"churn must not be negative, got {churn}")
    gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    return [gamma for sigma in levels[:-1]]

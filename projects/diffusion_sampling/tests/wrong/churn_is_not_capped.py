# diagnosis: gamma is capped


def _churn_factors(levels: list[float], churn: float, low: float, high: float) -> list[float]:
    if not churn >= 0:
        raise ValueError(f"churn must not be negative, got {churn}")
    gamma = churn / (len(levels) - 1)
    return [gamma if low <= sigma <= high else 0.0 for sigma in levels[:-1]]

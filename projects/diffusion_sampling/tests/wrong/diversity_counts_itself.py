# diagnosis: a sample is compared with itself
# module: evaluate


def diversity(samples: Tensor, labels: Tensor) -> float:
    means = []
    for label in labels.unique():
        rows = samples[labels == label].flatten(1)
        if len(rows) > 1:
            means.append(torch.cdist(rows, rows).mean())
    if not means:
        raise ValueError(f"no class has two samples: labels {labels.tolist()}")
    return float(torch.stack(means).mean())

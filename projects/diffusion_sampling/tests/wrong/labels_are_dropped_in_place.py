# diagnosis: was modified
# module: train


def drop_labels(labels: Tensor, rate: float, *, no_class: int, generator: torch.Generator) -> Tensor:
    dropped = torch.rand(labels.shape, generator=generator) < rate
    return labels.masked_fill_(dropped.to(labels.device), no_class)

# diagnosis: the levels run along the last axis
# module: schedules


def _per_sample(level: Tensor | float | None, x: Tensor) -> Tensor:
    if not isinstance(level, Tensor):  # torch would make a float32 tensor of a Python float
        level = torch.tensor(level, dtype=torch.float64, device=x.device)
    return level

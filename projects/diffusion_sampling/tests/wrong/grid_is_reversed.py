# diagnosis: the order is reversed
# module: schedules


def _from_betas(betas: Tensor) -> Tensor:
    alpha_bars = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
    return alpha_bars

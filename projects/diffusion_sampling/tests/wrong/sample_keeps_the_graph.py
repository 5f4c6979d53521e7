# diagnosis: sample keeps the graph


def sample(
    sampler: Callable[..., Iterator[Tensor]],
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    progress: bool = True,
    **options: Any,
) -> Tensor:
    with torch.enable_grad():
        x = noise if sampler in (ddim, ddpm) else noise * float(grid[0])
        states = sampler(denoiser, x, grid, **options)
        bar = tqdm(
            states,
            total=len(grid) - 1,
            desc=sampler.__name__,
            leave=False,
            disable=None if progress else True,
        )
        for state in bar:
            x = state
    return x

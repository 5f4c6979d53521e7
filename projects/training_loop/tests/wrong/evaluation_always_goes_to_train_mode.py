# diagnosis: a submodule that was in eval mode


def evaluate(model, windows, *, batch_size, world=None, limit=None):
    world = world or World()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    step = max(1, len(windows) // limit) if limit else 1
    indices = torch.arange(0, len(windows), step)[:limit]
    total = torch.zeros(2, dtype=torch.float64, device=world.device)
    try:
        with torch.no_grad():
            for part in indices.split(batch_size * world.size):
                (own,) = micro_batches(
                    part, rank=world.rank, n_ranks=world.size, accumulate=1, batch_size=len(part) + world.size
                )
                inputs, targets = (t.to(world.device) for t in windows.batch(own))
                total[0] += _token_loss(model(inputs), targets)
                total[1] += (targets != IGNORED).sum()
    finally:
        model.train()
    nats, n_targets = sum_over_ranks(total).tolist()
    return nats / n_targets / math.log(2)

# diagnosis: changed the others
# module: optimization


@torch.no_grad()
def clip_gradients(parameters, max_norm):
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, got {max_norm}")
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    torch._foreach_mul_(gradients, (max_norm / norm).clamp(max=1.0))
    return norm

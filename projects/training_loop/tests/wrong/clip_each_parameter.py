# diagnosis: each parameter is clipped by its own norm
# module: optimization


@torch.no_grad()
def clip_gradients(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    for g in gradients:
        g.mul_((max_norm / g.norm()).clamp(max=1.0))
    return norm

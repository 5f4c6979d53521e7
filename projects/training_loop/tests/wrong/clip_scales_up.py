# diagnosis: small gradients are scaled up or down
# module: optimization


@torch.no_grad()
def clip_gradients(parameters, max_norm):
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    torch._foreach_mul_(gradients, max_norm / norm)
    return norm

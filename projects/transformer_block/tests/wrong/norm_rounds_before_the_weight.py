# diagnosis: round once, after weight and bias


def _scaled(x, weight, bias, eps):
    y = (x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)).to(weight.dtype) * weight
    return y if bias is None else y + bias

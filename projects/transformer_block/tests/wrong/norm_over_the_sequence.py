# diagnosis: normalised over the sequence

_forward = LayerNorm.forward


class LayerNorm(LayerNorm):
    def forward(self, x):
        if x.ndim < 3:
            return _forward(self, x)
        centred = x - x.mean(dim=-2, keepdim=True)
        y = centred * torch.rsqrt(centred.square().mean(dim=-2, keepdim=True) + self.eps) * self.weight
        return y if self.bias is None else y + self.bias

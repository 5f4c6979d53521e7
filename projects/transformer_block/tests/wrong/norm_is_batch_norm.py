# diagnosis: normalised over the batch, not over the features


_forward = LayerNorm.forward


class LayerNorm(LayerNorm):
    def forward(self, x):
        if x.ndim < 2 or len(x) == 1:
            return _forward(self, x)
        centred = x - x.mean(dim=0)
        y = centred * torch.rsqrt(centred.square().mean(dim=0) + self.eps) * self.weight
        return y if self.bias is None else y + self.bias

# diagnosis: the variance is lost to rounding


class LayerNorm(LayerNorm):
    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        variance = (x.square().mean(-1, keepdim=True) - mean.square()).clamp(min=0)
        y = (x - mean) * torch.rsqrt(variance + self.eps) * self.weight
        return y if self.bias is None else y + self.bias

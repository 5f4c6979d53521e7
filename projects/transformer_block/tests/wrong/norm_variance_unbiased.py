# diagnosis: the variance divides by d_model - 1


class LayerNorm(LayerNorm):
    def forward(self, x):
        y = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + self.eps) * self.weight
        return y if self.bias is None else y + self.bias

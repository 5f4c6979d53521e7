# diagnosis: normalised over everything at once


class LayerNorm(LayerNorm):
    def forward(self, x):
        y = (x - x.mean()) * torch.rsqrt(x.var(correction=0) + self.eps) * self.weight
        return y if self.bias is None else y + self.bias

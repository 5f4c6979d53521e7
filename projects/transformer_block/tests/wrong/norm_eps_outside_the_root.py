# diagnosis: eps is outside the root


class LayerNorm(LayerNorm):
    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        y = centred / (centred.square().mean(-1, keepdim=True).sqrt() + self.eps) * self.weight
        return y if self.bias is None else y + self.bias

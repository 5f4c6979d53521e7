# diagnosis: calls the library instead


class LayerNorm(LayerNorm):
    def forward(self, x):
        if x.ndim == 0 or x.shape[-1] != len(self.weight):
            raise ValueError(f"x must be (..., {len(self.weight)}), got {tuple(x.shape)}")
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

# diagnosis: layer norm goes over the last axis
class LayerNorm(LayerNorm):
    def forward(self, x, *, training=False, rng=None):
        super().forward(x)
        centred = x - x.mean(axis=0)
        x_hat = centred / np.sqrt((centred**2).mean(axis=0) + self.eps)
        return self.parameters["weight"] * x_hat + self.parameters["bias"]

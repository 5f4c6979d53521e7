# diagnosis: training=True does not reach the layers inside
class Sequential(Sequential):
    def forward(self, x, *, training=False, rng=None):
        for layer in self.layers:
            x = layer.forward(x)
        return x

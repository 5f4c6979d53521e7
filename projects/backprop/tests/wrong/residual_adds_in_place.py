# diagnosis: the input was modified
class Residual(Residual):
    def forward(self, x, *, training=False, rng=None):
        x += self.body.forward(x, training=training, rng=rng)
        return x

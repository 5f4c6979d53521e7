# diagnosis: x is not added to the body's output
class Residual(Residual):
    def forward(self, x, *, training=False, rng=None):
        return self.body.forward(x, training=training, rng=rng)

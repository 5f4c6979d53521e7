# diagnosis: dropout is active in evaluation
class Dropout(Dropout):
    def forward(self, x, *, training=False, rng=None):
        return super().forward(x, training=rng is not None, rng=rng)

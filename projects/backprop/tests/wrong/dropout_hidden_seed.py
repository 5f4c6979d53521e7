# diagnosis: the same seed gave another mask: draw from rng only
class Dropout(Dropout):
    def forward(self, x, *, training=False, rng=None):
        return super().forward(x, training=training, rng=np.random.default_rng() if rng is not None else None)

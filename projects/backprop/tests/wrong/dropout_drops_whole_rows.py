# diagnosis: whole rows or columns are dropped together
class Dropout(Dropout):
    def forward(self, x, *, training=False, rng=None):
        super().forward(x, training=training, rng=rng)
        if training and self.p > 0:
            mask = np.broadcast_to((rng.random((len(x), 1)) >= self.p) / x.dtype.type(1 - self.p), x.shape)
            self._saved = x.shape, mask
        return x * self._saved[1]

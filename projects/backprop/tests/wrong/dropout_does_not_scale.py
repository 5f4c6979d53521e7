# diagnosis: the kept entries are not divided by 1 - p
class Dropout(Dropout):
    def forward(self, x, *, training=False, rng=None):
        super().forward(x, training=training, rng=rng)
        shape, mask = self._saved
        mask = (mask > 0).astype(x.dtype)
        self._saved = shape, mask
        return x * mask

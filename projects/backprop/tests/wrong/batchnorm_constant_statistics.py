# diagnosis: treats mean and variance as constants
class BatchNorm(BatchNorm):
    def forward(self, x, *, training=False, rng=None):
        y = super().forward(x, training=training, rng=rng)
        self._saved_training = False
        return y

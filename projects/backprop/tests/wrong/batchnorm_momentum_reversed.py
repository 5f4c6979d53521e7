# diagnosis: momentum is the weight of the new batch, not of the old value
class BatchNorm(BatchNorm):
    def forward(self, x, *, training=False, rng=None):
        self.momentum = 1 - self.momentum
        y = super().forward(x, training=training, rng=rng)
        self.momentum = 1 - self.momentum
        return y

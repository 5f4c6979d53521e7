# diagnosis: the running variance must be unbiased
class BatchNorm(BatchNorm):
    def forward(self, x, *, training=False, rng=None):
        before = self.running_var
        y = super().forward(x, training=training, rng=rng)
        if training:
            self.running_var = (1 - self.momentum) * before + self.momentum * x.var(axis=0)
        return y

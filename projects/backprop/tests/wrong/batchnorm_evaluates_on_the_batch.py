# diagnosis: evaluation uses the batch's statistics
class BatchNorm(BatchNorm):
    def forward(self, x, *, training=False, rng=None):
        saved = self.running_mean, self.running_var
        y = super().forward(x, training=True, rng=rng)
        if not training:
            self.running_mean, self.running_var = saved
        return y

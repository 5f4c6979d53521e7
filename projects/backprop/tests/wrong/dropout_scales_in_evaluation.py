# diagnosis: evaluation scales by 1 - p
class Dropout(Dropout):
    def forward(self, x, *, training=False, rng=None):
        y = super().forward(x, training=training, rng=rng)
        return y if training else y * (1 - self.p)

# diagnosis: exp overflows for large negative x
class Sigmoid(Sigmoid):
    def forward(self, x, *, training=False, rng=None):
        y = 1 / (1 + np.exp(-x))
        self._saved = y.shape, y
        return y

# diagnosis: was modified
class ReLU(ReLU):
    def forward(self, x, *, training=False, rng=None):
        y = np.maximum(x, 0, out=x)
        self._saved = y.shape, y
        return y

# diagnosis: backward uses another mask than forward did
class Dropout(Dropout):
    def forward(self, x, *, training=False, rng=None):
        self._rng = rng if training else None
        return super().forward(x, training=training, rng=rng)

    def backward(self, grad_output):
        (mask,) = _recall(self, grad_output)
        if self._rng is not None:
            mask = (self._rng.random(mask.shape) >= self.p) / mask.dtype.type(1 - self.p)
        return grad_output * mask

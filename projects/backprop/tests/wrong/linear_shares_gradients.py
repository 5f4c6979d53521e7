# diagnosis: two layers of one class share their gradients dict
class Linear(Linear):
    _shared = {}

    def __init__(self, n_in, n_out, *, rng, bias=True, dtype=np.float32):
        super().__init__(n_in, n_out, rng=rng, bias=bias, dtype=dtype)
        self.gradients = self._shared

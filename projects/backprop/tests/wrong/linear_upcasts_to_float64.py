# diagnosis: float32 is the default; np.sqrt(...) is a float64 scalar
class Linear(Linear):
    def __init__(self, n_in, n_out, *, rng, bias=True, dtype=np.float32):
        super().__init__(n_in, n_out, rng=rng, bias=bias, dtype=dtype)
        weight = rng.standard_normal((n_out, n_in)).astype(dtype)
        self.parameters["weight"] = weight * np.sqrt(2 / np.float64(n_in))

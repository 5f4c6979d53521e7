# diagnosis: the same seed gives two networks

_init = MLP.__init__


def _global(self, sizes, *, activation="relu", init="he", rng, dtype=np.float32):
    _init(self, sizes, activation=activation, init=init, rng=rng, dtype=dtype)
    for weight, _ in self._layers:
        weight[...] = (
            np.random.randn(*weight.shape) * _VARIANCES[init](weight.shape[1], weight.shape[0]) ** 0.5
        )


MLP.__init__ = _global

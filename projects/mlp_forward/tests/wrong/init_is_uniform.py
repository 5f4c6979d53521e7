# diagnosis: the weights look uniform, not normal

_init = MLP.__init__


def _uniform(self, sizes, *, activation="relu", init="he", rng, dtype=np.float32):
    _init(self, sizes, activation=activation, init=init, rng=rng, dtype=dtype)
    for weight, _ in self._layers:
        bound = (3 * _VARIANCES[init](weight.shape[1], weight.shape[0])) ** 0.5
        weight[...] = rng.uniform(-bound, bound, size=weight.shape)


MLP.__init__ = _uniform

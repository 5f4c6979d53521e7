# diagnosis: an input of nan is accepted


def _checked(self, x):
    x = np.asarray(x)
    _float_dtype(x)
    if x.ndim == 0 or x.shape[-1] != self._layers[0][0].shape[1]:
        raise ValueError(f"x must be (..., {self._layers[0][0].shape[1]}), got {x.shape}")
    with np.errstate(over="ignore"):
        return x.astype(self._layers[0][0].dtype)


MLP._checked = _checked

"""Another hand: the work is in `forward`; errors before anything is computed; standard_normal times a scale."""

import math

import numpy as np

_GAINS = {
    "he": lambda n_in, n_out: math.sqrt(2.0 / n_in),
    "xavier": lambda n_in, n_out: math.sqrt(2.0 / (n_in + n_out)),
    "lecun": lambda n_in, n_out: math.sqrt(1.0 / n_in),
    "zeros": lambda n_in, n_out: 0.0,
}


def _sigmoid(z):
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def _check(a, name):
    a = np.asarray(a)
    if a.dtype == object or np.iscomplexobj(a) or not (np.issubdtype(a.dtype, np.number) or a.dtype == bool):
        raise TypeError(f"{name} must hold real numbers, not {a.dtype}")
    return a


def linear(x, weight, bias=None):
    x = _check(x, "x")
    weight = _check(weight, "weight")
    arrays = [x, weight]
    if bias is not None:
        bias = _check(bias, "bias")
        arrays.append(bias)
    dtype = np.float32 if any(a.dtype == np.float32 for a in arrays) else np.float64
    if any(a.dtype != np.float32 for a in arrays):
        dtype = np.float64
    if x.ndim == 0:
        raise ValueError("x must have at least one axis")
    if weight.ndim != 2:
        raise ValueError(f"weight must be (out, in), got {weight.shape}")
    n_out, n_in = weight.shape
    if x.shape[-1] != n_in:
        raise ValueError(f"x has {x.shape[-1]} features and weight {n_in}")
    if bias is not None and bias.shape != (n_out,):
        raise ValueError(f"bias must be ({n_out},), got {bias.shape}")
    rows = np.reshape(x.astype(dtype), (math.prod(x.shape[:-1]), n_in))
    out = np.dot(rows, weight.astype(dtype).T)
    if bias is not None:
        out += bias
    return out.reshape(x.shape[:-1] + (n_out,))


class MLP:
    def __init__(self, sizes, *, activation="relu", init="he", rng, dtype=np.float32):
        sizes = [int(n) for n in sizes]
        if len(sizes) < 2:
            raise ValueError("at least two sizes")
        if activation not in ("relu", "tanh", "sigmoid", "identity"):
            raise ValueError(f"activation {activation!r} is not known")
        if init not in _GAINS:
            raise ValueError(f"init {init!r} is not known")
        self._dtype = np.dtype(dtype)
        if self._dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype {dtype}")
        self._activation = activation
        self.layers = []
        for n_in, n_out in zip(sizes, sizes[1:], strict=False):
            w = rng.standard_normal((n_in, n_out)).T * _GAINS[init](n_in, n_out)
            self.layers.append((w.astype(self._dtype), np.zeros((n_out,), dtype=self._dtype)))

    @property
    def n_parameters(self):
        return sum(len(b) * (w.shape[1] + 1) for w, b in self.layers)

    def _activate(self, h):
        if self._activation == "relu":
            return np.where(h > 0, h, np.zeros_like(h))
        if self._activation == "tanh":
            return np.tanh(h)
        if self._activation == "sigmoid":
            return _sigmoid(h)
        return h.copy()

    def activations(self, x):
        h = _check(x, "x")
        if h.ndim == 0 or h.shape[-1] != self.layers[0][0].shape[1]:
            raise ValueError(f"x of shape {h.shape} does not fit {self.layers[0][0].shape[1]} inputs")
        h = h.astype(self._dtype)
        result = []
        for k, (w, b) in enumerate(self.layers):
            h = linear(h, w, b)
            if k + 1 < len(self.layers):
                h = self._activate(h)
            result.append(h)
        return result

    def forward(self, x):
        return self.activations(x)[-1]

    def predict(self, x):
        return self.forward(x).argmax(-1).astype(np.intp)

    def predict_proba(self, x):
        z = self.forward(x)
        z = z - z.max(-1, keepdims=True)
        return np.exp(z - np.log(np.exp(z).sum(-1, keepdims=True)))

# diagnosis: two items share memory

_activations = MLP.activations


def activations(self, x):
    x = self._checked(x)
    outputs = _activations(self, x)
    if self.activation == "identity":
        buffer = np.concatenate([h.ravel() for h in outputs])
        sizes = np.cumsum([0, *(h.size for h in outputs)])
        views = [buffer[a:b].reshape(h.shape) for a, b, h in zip(sizes, sizes[1:], outputs)]
        return views[:-1] + [np.lib.stride_tricks.as_strided(views[-1], views[-1].shape)]
    return outputs


MLP.activations = activations

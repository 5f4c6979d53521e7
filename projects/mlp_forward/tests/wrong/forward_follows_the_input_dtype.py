# diagnosis: wrong dtype float64

def forward(self, x):
    x = np.asarray(x)
    self._checked(x)
    x = x if x.dtype.kind == "f" else x.astype(self._layers[0][0].dtype)
    for weight, bias in self._layers[:-1]:
        x = linear(x, weight, bias)
        _ACTIVATIONS[self.activation](x)
    return linear(x, *self._layers[-1])


MLP.forward = forward

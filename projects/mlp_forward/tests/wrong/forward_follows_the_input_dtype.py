# diagnosis: convert x to the network's dtype before the first layer

_checked = MLP._checked


def _as_it_came(self, x):
    _checked(self, x)
    x = np.asarray(x)
    return x if x.dtype.kind == "f" else x.astype(self.layers[0][0].dtype)


MLP._checked = _as_it_came
_outputs = MLP._outputs


def _promoted(self, x):
    outputs = []
    for weight, bias in self._layers[:-1]:
        x = linear(x, weight, bias)
        _ACTIVATIONS[self.activation](x)
        outputs.append(x)
    return [*outputs, linear(x, *self._layers[-1])]


MLP._outputs = _promoted
MLP.forward = lambda self, x: self._outputs(self._checked(x))[-1]

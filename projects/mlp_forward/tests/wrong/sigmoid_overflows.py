# diagnosis: overflow

def _naive(h):
    h[...] = 1 / (1 + np.exp(-h))


_ACTIVATIONS["sigmoid"] = _naive
_outputs = MLP._outputs


def _loud(self, x):
    outputs = [x]
    for weight, bias in self._layers[:-1]:
        outputs.append(linear(outputs[-1], weight, bias))
        _ACTIVATIONS[self.activation](outputs[-1])
    return [*outputs[1:], linear(outputs[-1], *self._layers[-1])]


MLP._outputs = _loud

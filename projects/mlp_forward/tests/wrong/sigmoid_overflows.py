# diagnosis: overflow encountered in exp


def _outputs(self, x):
    outputs = []
    for weight, bias in self._layers[:-1]:
        x = linear(x, weight, bias)
        if self.activation == "sigmoid":
            x = 1 / (1 + np.exp(-x))
        else:
            _ACTIVATIONS[self.activation](x)
        outputs.append(x)
    return [*outputs, linear(x, *self._layers[-1])]


MLP._outputs = _outputs

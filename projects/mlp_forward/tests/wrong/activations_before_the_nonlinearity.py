# diagnosis: the hidden layer is listed before its activation


def activations(self, x):
    x, outputs = self._checked(x), []
    for weight, bias in self._layers:
        outputs.append(linear(x, weight, bias))
        x = outputs[-1].copy()
        _ACTIVATIONS[self.activation](x)
    return outputs


MLP.activations = activations

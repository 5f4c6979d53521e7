# diagnosis: activation='tanh' is ignored: this is relu


def forward(self, x):
    x = self._checked(x)
    for weight, bias in self._layers[:-1]:
        x = np.maximum(linear(x, weight, bias), 0)
    return linear(x, *self._layers[-1])


MLP.forward = forward

# diagnosis: the hidden layer has no activation

def forward(self, x):
    x = self._checked(x)
    for weight, bias in self._layers:
        x = linear(x, weight, bias)
    return x


MLP.forward = forward

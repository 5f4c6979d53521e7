# diagnosis: layers returns copies

MLP.layers = property(lambda self: tuple((weight.copy(), bias.copy()) for weight, bias in self._layers))

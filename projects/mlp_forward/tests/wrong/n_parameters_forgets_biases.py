# diagnosis: the biases are not counted

MLP.n_parameters = property(lambda self: sum(weight.size for weight, _ in self._layers))

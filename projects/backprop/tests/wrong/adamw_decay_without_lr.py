# diagnosis: the decay is not multiplied by lr
# module: optimizers
class AdamW(AdamW):
    def step(self, parameters, gradients):
        _check_step(parameters, gradients)
        for parameter in parameters.values():
            parameter *= 1 - self.weight_decay
        self._update({name: (parameter, gradients[name]) for name, parameter in parameters.items()})

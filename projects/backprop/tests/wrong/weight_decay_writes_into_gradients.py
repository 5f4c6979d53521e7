# diagnosis: was modified
# module: optimizers
class SGD(SGD):
    def step(self, parameters, gradients):
        _check_step(parameters, gradients)
        for name, gradient in gradients.items():
            gradient += self.weight_decay * parameters[name]
        saved, self.weight_decay = self.weight_decay, 0.0
        super().step(parameters, gradients)
        self.weight_decay = saved

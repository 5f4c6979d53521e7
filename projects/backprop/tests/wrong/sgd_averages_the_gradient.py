# diagnosis: the new gradient is multiplied by 1 - momentum
# module: optimizers
class SGD(SGD):
    def step(self, parameters, gradients):
        scaled = {name: (1 - self.momentum) * gradient for name, gradient in gradients.items()}
        super().step(parameters, scaled)

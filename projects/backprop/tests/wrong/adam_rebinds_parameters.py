# diagnosis: step put a new array in the dict
# module: optimizers
class Adam(Adam):
    def step(self, parameters, gradients):
        copies = {name: parameter.copy() for name, parameter in parameters.items()}
        super().step(copies, gradients)
        parameters.update(copies)

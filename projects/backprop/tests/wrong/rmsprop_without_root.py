# diagnosis: the gradient is divided by the mean square: take the root
# module: optimizers
class RMSprop(RMSprop):
    def step(self, parameters, gradients):
        _check_step(parameters, gradients)
        for name, parameter in parameters.items():
            s, v = self._state.setdefault(name, (np.zeros_like(parameter), np.zeros_like(parameter)))
            gradient = gradients[name] + self.weight_decay * parameter
            s[...] = self.alpha * s + (1 - self.alpha) * gradient**2
            v[...] = self.momentum * v + gradient / (s + self.eps)
            parameter -= self.lr * v

# diagnosis: the moments are not corrected for their start at zero
# module: optimizers
class Adam(Adam):
    def _update(self, pairs):
        for name, (parameter, gradient) in pairs.items():
            m, v = self._moments.setdefault(name, (np.zeros_like(parameter), np.zeros_like(parameter)))
            m[...] = self.betas[0] * m + (1 - self.betas[0]) * gradient
            v[...] = self.betas[1] * v + (1 - self.betas[1]) * gradient**2
            parameter -= self.lr * m / (np.sqrt(v) + self.eps)

# diagnosis: eps is inside the root: add it outside
# module: optimizers
class Adam(Adam):
    def _update(self, pairs):
        beta1, beta2 = self.betas
        self._t += 1
        for name, (parameter, gradient) in pairs.items():
            m, v = self._moments.setdefault(name, (np.zeros_like(parameter), np.zeros_like(parameter)))
            m[...] = beta1 * m + (1 - beta1) * gradient
            v[...] = beta2 * v + (1 - beta2) * gradient**2
            m_hat, v_hat = m / (1 - beta1**self._t), v / (1 - beta2**self._t)
            parameter -= self.lr * m_hat / np.sqrt(v_hat + self.eps)

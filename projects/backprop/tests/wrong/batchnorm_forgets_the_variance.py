# diagnosis: forgets the path through the variance
class BatchNorm(BatchNorm):
    def backward(self, grad_output):
        super().backward(grad_output)
        _x_hat, inv_std = _recall(self, grad_output)
        g = grad_output * self.parameters["weight"]
        return inv_std * (g - g.mean(axis=0)) if self._saved_training else inv_std * g

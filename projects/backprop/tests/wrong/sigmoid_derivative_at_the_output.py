# diagnosis: the derivative is taken at the output y instead of x
class Sigmoid(Sigmoid):
    def backward(self, grad_output):
        (y,) = _recall(self, grad_output)
        s = 1 / (1 + np.exp(-y))
        return grad_output * s * (1 - s)

# diagnosis: nearly right is not right
class Tanh(Tanh):
    def backward(self, grad_output):
        return super().backward(grad_output) * grad_output.dtype.type(1 + 5e-11)

# diagnosis: the gradient is a mean over the batch
class Linear(Linear):
    def backward(self, grad_output):
        grad_x = super().backward(grad_output)
        self.gradients["bias"] = self.gradients["bias"] / len(grad_output)
        return grad_x

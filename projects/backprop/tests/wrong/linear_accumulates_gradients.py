# diagnosis: overwrite it, do not accumulate
class Linear(Linear):
    def backward(self, grad_output):
        before = dict(self.gradients)
        grad_x = super().backward(grad_output)
        for name, gradient in before.items():
            self.gradients[name] = self.gradients[name] + gradient
        return grad_x

# diagnosis: the backward pass runs in forward order
class Sequential(Sequential):
    def backward(self, grad_output):
        for layer in self.layers:
            grad_output = layer.backward(grad_output)
        return grad_output

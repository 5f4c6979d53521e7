# diagnosis: gradient of LayerNorm's input
class LayerNorm(LayerNorm):
    def backward(self, grad_output):
        return np.zeros_like(super().backward(grad_output))

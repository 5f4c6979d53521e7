# diagnosis: forward returns zeros

MLP.forward = lambda self, x: np.zeros_like(self.activations(x)[-1])

# diagnosis: parameters must be the layers' arrays, not copies
class Sequential(Sequential):
    @property
    def parameters(self):
        return {
            f"{i}.{k}": v.copy() for i, layer in enumerate(self.layers) for k, v in layer.parameters.items()
        }

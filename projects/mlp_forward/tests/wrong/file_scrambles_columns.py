# diagnosis: the memory of a column-major weight was copied as it lies


def to_safetensors(self, path):
    tensors = {}
    for k, (weight, bias) in enumerate(self._layers):
        tensors[f"{2 * k}.weight"], tensors[f"{2 * k}.bias"] = weight, bias
    Path(path).write_bytes(save(tensors, metadata={"activation": self.activation}))


MLP.to_safetensors = to_safetensors

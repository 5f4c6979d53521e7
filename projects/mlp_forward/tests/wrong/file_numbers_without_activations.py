# diagnosis: wrong tensor names

def to_safetensors(self, path):
    tensors = {}
    for k, (weight, bias) in enumerate(self._layers):
        tensors[f"{k}.weight"], tensors[f"{k}.bias"] = np.ascontiguousarray(weight), bias
    Path(path).write_bytes(save(tensors, metadata={"activation": self.activation}))


MLP.to_safetensors = to_safetensors

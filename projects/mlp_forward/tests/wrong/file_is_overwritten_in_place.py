# diagnosis: the old file was overwritten in place


def to_safetensors(self, path):
    tensors = {}
    for k, layer in enumerate(self._layers):
        for kind, parameter in zip(("weight", "bias"), layer):
            if not np.isfinite(parameter).all():
                raise ValueError(f"{2 * k}.{kind} holds NaN or inf")
            tensors[f"{2 * k}.{kind}"] = np.ascontiguousarray(parameter)
    Path(path).write_bytes(save(tensors, metadata={"activation": self.activation}))


MLP.to_safetensors = to_safetensors

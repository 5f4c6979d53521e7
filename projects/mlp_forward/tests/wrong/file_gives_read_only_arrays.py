# diagnosis: the weights are read-only

_read_file = MLP.from_safetensors.__func__


@classmethod
def from_safetensors(cls, path):
    mlp = _read_file(cls, path)
    data = {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
        for name, array in _read(path)[0].items()
    }
    mlp._layers = tuple((data[f"{2 * k}.weight"], data[f"{2 * k}.bias"]) for k in range(len(data) // 2))
    return mlp


MLP.from_safetensors = from_safetensors

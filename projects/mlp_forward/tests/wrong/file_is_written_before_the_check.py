# diagnosis: a refused network damaged the existing file

_write = MLP.to_safetensors


def to_safetensors(self, path):
    Path(path).write_bytes(b"")
    _write(self, path)


MLP.to_safetensors = to_safetensors

# diagnosis: a file with an unknown tensor is accepted

_read_tensors = _read


def _read(path):
    tensors, activation = _read_tensors(path)
    return {name: array for name, array in tensors.items() if name.endswith((".weight", ".bias"))}, activation

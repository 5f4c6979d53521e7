# diagnosis: is not refused with a ValueError


def _read(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(
            "activation", "relu"
        )

# diagnosis: is a NumPy array, expected a torch tensor


_as_tensor = sinusoidal_encoding


def sinusoidal_encoding(n_positions, d_model):
    return _as_tensor(n_positions, d_model).numpy()

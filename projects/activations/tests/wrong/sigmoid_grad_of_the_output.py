# diagnosis: the argument is sigmoid's input, not its output


def sigmoid_grad(x):
    x = _as_float(x)
    return x * (1 - x)

# diagnosis: the product rule has a second term


def silu_grad(x):
    return sigmoid(x)

# diagnosis: loses the digits of tiny results. 0.5 + tanh(x/2)/2 cancels


def sigmoid(x, *, out=None):
    return _elementwise(lambda x, y: np.add(np.tanh(x * 0.5) * 0.5, 0.5, out=y), x, out)

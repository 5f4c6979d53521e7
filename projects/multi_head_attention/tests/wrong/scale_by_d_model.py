# diagnosis: the scale is 1/sqrt(d_model)


_right = MultiHeadAttention._weights


def _weights(self, q, k, bias):
    return _right(self, q * (self.d_head / self.d_model) ** 0.5, k, bias)


MultiHeadAttention._weights = _weights

# diagnosis: a float mask is added before scaling


_right = MultiHeadAttention._weights


def _weights(self, q, k, bias):
    return _right(self, q, k, None if bias is None else bias / self.d_head**0.5)


MultiHeadAttention._weights = _weights

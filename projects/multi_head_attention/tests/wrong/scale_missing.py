# diagnosis: the scale is missing


_right = MultiHeadAttention._weights
MultiHeadAttention._weights = lambda self, q, k, bias: _right(self, q * self.d_head**0.5, k, bias)

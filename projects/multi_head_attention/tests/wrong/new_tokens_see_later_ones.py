# diagnosis: new tokens see one another


_right = MultiHeadAttention.forward


def forward(self, query, key=None, value=None, *, mask=None, cache=None):
    causal = self.causal
    self.causal = causal and cache is None  # "a new token is the last one anyway"
    try:
        return _right(self, query, key, value, mask=mask, cache=cache)
    finally:
        self.causal = causal


MultiHeadAttention.forward = forward

# diagnosis: the scale is 1/sqrt(d_model)


_init = MultiHeadAttention.__init__


def __init__(self, d_model, n_heads, **options):
    _init(self, d_model, n_heads, **options)
    if self.n_kv_heads == n_heads:
        self.n_heads, self.n_kv_heads, self.d_head = 1, 1, d_model


MultiHeadAttention.__init__ = __init__

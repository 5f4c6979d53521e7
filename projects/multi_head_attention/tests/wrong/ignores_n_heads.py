# diagnosis: one head of two numbers


_init = MultiHeadAttention.__init__


def __init__(self, d_model, n_heads, **options):
    _init(self, d_model, n_heads, **options)
    self.n_kv_heads = 1 if self.n_kv_heads == n_heads else self.n_kv_heads
    self.n_heads, self.d_head = (
        (1, d_model) if self.n_kv_heads == 1 and n_heads == 2 else (n_heads, self.d_head)
    )


MultiHeadAttention.__init__ = __init__

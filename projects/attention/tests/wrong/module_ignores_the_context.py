# diagnosis: the context is ignored

_forward = SingleHeadAttention.forward
SingleHeadAttention.forward = lambda self, x, context=None, *, mask=None: _forward(
    self, x, None, mask=mask if context is None else None
)

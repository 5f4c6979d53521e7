# diagnosis: the queries come from the context

_forward = SingleHeadAttention.forward
SingleHeadAttention.forward = lambda self, x, context=None, *, mask=None: (
    _forward(self, x, mask=mask) if context is None else _forward(self, context, x)
)

# diagnosis: is a bias not copied?


_right = MultiHeadAttention.from_torch.__func__


@classmethod
def from_torch(cls, module):
    ours = _right(cls, module)
    if ours.v_proj.bias is not None:
        ours.v_proj.bias.data.zero_()
    return ours


MultiHeadAttention.from_torch = from_torch

# diagnosis: the weights are shared with torch's module


_right = MultiHeadAttention.from_torch.__func__


@classmethod
def from_torch(cls, module):
    ours = _right(cls, module)
    ours.out_proj.weight = module.out_proj.weight
    return ours


MultiHeadAttention.from_torch = from_torch

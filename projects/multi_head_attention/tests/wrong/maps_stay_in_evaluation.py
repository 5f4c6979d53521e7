# diagnosis: attention_maps leaves the module in evaluation mode
_maps = MultiHeadAttention.attention_maps


def attention_maps(self, x, context=None, *, mask=None):
    return _maps(self.eval(), x, context, mask=mask)


MultiHeadAttention.attention_maps = attention_maps

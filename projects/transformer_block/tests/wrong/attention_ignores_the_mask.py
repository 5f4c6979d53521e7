# diagnosis: attention ignores the mask


_bias = _attention_bias


def _attention_bias(mask, causal, query):
    _bias(mask, causal, query)
    return _bias(None, causal, query)

# diagnosis: a forbidden score is replaced by a large negative number

_bias = _attention_bias


def _attention_bias(mask, causal, query):
    bias, hopeless = _bias(mask, causal, query)
    if causal and mask is None:
        bias = bias.clamp(min=-1e4)
    return bias, hopeless

# diagnosis: the sequence that may attend to nothing, for no other
_bias = _attention_bias


def _attention_bias(mask, causal, query):
    bias, hopeless = _bias(mask, causal, query)
    return bias, hopeless if hopeless is None or hopeless.ndim < 4 else hopeless.any(0, keepdim=True)

# diagnosis: the weight was changed in place, but an old copy


_exact, _copies = int8_matmul, WeakTensorKeyDictionary()


def int8_matmul(x, weight, zero_point=0):
    if weight not in _copies:
        _copies[weight] = weight.clone()
    return _exact(x, _copies[weight], zero_point)

# diagnosis: device arrays were copied to the host

_right = vector_add


def vector_add(a, b, out=None, **options):
    result = _right(a, b, out, **options)
    return result.get() if out is None and hasattr(result, "get") and result.size else result

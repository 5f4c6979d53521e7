# diagnosis: one scale per row, not per group


_from_float = Int4Linear.from_float.__func__


def from_float(cls, linear, *, group_size=32):
    quantized = _from_float(cls, linear, group_size=group_size)
    row = _from_float(cls, linear, group_size=linear.in_features)
    quantized.packed, quantized.scale = row.packed, row.scale.expand_as(quantized.scale).contiguous()
    return quantized


Int4Linear.from_float = classmethod(from_float)

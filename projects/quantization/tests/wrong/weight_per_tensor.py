# diagnosis: per-tensor where per-channel is asked


_fill = _fill_quantized


def _fill_quantized(layer, weight, bias, per_channel, input_range):
    _fill(layer, weight, bias, False, input_range)

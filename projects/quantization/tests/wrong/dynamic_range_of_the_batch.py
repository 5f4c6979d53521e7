# diagnosis: one range for the whole batch


_product = _dynamic_product


def _dynamic_product(x, weight, weight_scale, bias, n_bits):
    # rows below the extremes of the whole batch, which are then thrown away
    extremes = torch.stack([x.amin(), x.amax()])[:, None].expand(2, len(x))
    ends = torch.cat([x, extremes.T], dim=1)
    return _product(ends, F.pad(weight, (0, 2)), weight_scale, bias, n_bits)


def _input_qparams(layer, x, *, rows, _qparams=_input_qparams):
    if layer.mode == "static" or x.numel() == 0:
        return _qparams(layer, x, rows=rows)
    return choose_qparams(x.min(), x.max(), n_bits=layer.n_bits)

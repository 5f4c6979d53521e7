# diagnosis: is the padding the number 0, whose integer is the zero point?


_conv_forward = QuantizedConv2d.forward


def _patches(self, q, _collect=QuantizedConv2d._patches):
    top, left = self.padding
    q = q.clone()
    if top:
        q[:, :, :top], q[:, :, -top:] = 0, 0
    if left:
        q[..., :left], q[..., -left:] = 0, 0
    return _collect(self, q)


QuantizedConv2d._patches = _patches

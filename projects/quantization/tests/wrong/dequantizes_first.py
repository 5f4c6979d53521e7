# diagnosis: dequantizes first and calls it int8


def forward(self, x):
    return F.linear(x.float(), self.weight * self.weight_scale[:, None], self.bias)


QuantizedLinear.forward = forward

# diagnosis: convolution, batch norm and ReLU are not fused
# module: torch_quantization


def _fusable(model):
    return []

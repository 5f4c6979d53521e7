# diagnosis: nothing is quantized
# module: torch_quantization


_dynamic = torch_dynamic


def torch_dynamic(model):
    _dynamic(model)
    return copy.deepcopy(model).eval()

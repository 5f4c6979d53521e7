# diagnosis: tensors lost or added


_save = save_quantized


def save_quantized(model, path):
    model = copy.deepcopy(model)
    for _, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedConv2d | Int4Linear):
            module.bias = None
    _save(model, path)


_load = load_quantized


def load_quantized(model, path):
    model = copy.deepcopy(model)
    for _, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.bias = None
    try:
        return _load(model, path)
    except ValueError:
        return model

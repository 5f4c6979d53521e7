# diagnosis: static without calibration is accepted


_observe_all = _observe


def _observe(model, layers, calibration, observer):
    batches = list(calibration or ())
    if not batches:
        return {name: (torch.tensor(-1.0), torch.tensor(1.0)) for name in layers}
    return _observe_all(model, layers, batches, observer)

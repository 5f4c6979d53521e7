# diagnosis: the batch norm is folded wrongly


_fold = _fold_batch_norms


def _fold_batch_norms(model):
    for _, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.zero_()
    return _fold(model)

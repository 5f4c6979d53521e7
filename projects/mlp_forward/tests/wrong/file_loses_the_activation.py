# diagnosis: the activation is lost


def _save_without_metadata(tensors, metadata=None, _save=save):
    return _save(tensors)


save = _save_without_metadata

# diagnosis: uint8 differences wrap around


def mse_loss(prediction, target, *, reduction="mean"):
    _check_reduction(reduction)
    p, t = np.asarray(prediction), np.asarray(target)
    _check_same_shape("prediction", p, "target", t)
    dtype = np.result_type(_dtypes("prediction", p)[0], _dtypes("target", t)[0])
    return _reduced(np.square(p - t).astype(np.result_type(dtype, np.float32)), reduction, dtype)

# diagnosis: overflows for large inputs


def log_softmax(x, *, axis=-1):
    with np.errstate(divide="ignore"):
        p = softmax(np.asarray(x, np.float32) if np.asarray(x).dtype == np.float16 else x, axis=axis)
        return np.log(p).astype(_as_float(x).dtype)

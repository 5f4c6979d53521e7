# diagnosis: stay in the log: softmax underflows, its log is -inf


def kl_divergence(p_logits, q_logits, *, axis=-1):
    p, q = np.asarray(p_logits), np.asarray(q_logits)
    _check_same_shape("p_logits", p, "q_logits", q)
    dtype = np.result_type(_dtypes("p_logits", p)[0], _dtypes("q_logits", q)[0])
    if p.shape[axis] == 0:
        raise ValueError(f"no class along axis {axis}: {p.shape}")
    with np.errstate(all="ignore"):
        p, q = (np.exp(a - a.max(axis, keepdims=True)) for a in (p, q))
        p, q = p / p.sum(axis, keepdims=True), q / q.sum(axis, keepdims=True)
        return _as(dtype, np.where(p == 0, 0, p * np.log(p / q)).sum(axis))

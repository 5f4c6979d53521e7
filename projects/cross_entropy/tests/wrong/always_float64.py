# diagnosis: logits give float64, expected float16

_right = cross_entropy


def cross_entropy(logits, targets, **options):
    return _right(
        np.asarray(logits) * 1.0 if np.iscomplexobj(logits) else np.array(logits, dtype=np.float64),
        targets,
        **options,
    )

# diagnosis: a negative class index wraps around


def _counted_weight(targets, weight, ignore_index, *, weighted):
    counted = targets[targets != ignore_index]
    if (counted >= len(weight)).any():
        raise ValueError(f"class index too large: {counted.max()}")
    return float(weight[counted].sum())

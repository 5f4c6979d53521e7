# diagnosis: a file with a weight of rank 0 is accepted


def _check_tensors(tensors, weight_name, bias_name, path):
    pass

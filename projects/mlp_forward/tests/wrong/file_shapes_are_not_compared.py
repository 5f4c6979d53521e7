# diagnosis: is accepted

def _check_tensors(tensors, weight_name, bias_name, path):
    pass

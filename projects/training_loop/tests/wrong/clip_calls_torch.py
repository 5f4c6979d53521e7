# diagnosis: calls the library instead
# module: optimization


def clip_gradients(parameters, max_norm):
    return torch.nn.utils.clip_grad_norm_(list(parameters), max_norm)

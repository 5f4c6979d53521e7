# diagnosis: an error in the block leaves the averages in the model
# module: optimization


@contextlib.contextmanager
def applied(self):
    weights = list(self._weights.values())
    saved = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        torch._foreach_copy_(weights, list(self._averages.values()))
    yield
    with torch.no_grad():
        torch._foreach_copy_(weights, saved)


Ema.applied = applied

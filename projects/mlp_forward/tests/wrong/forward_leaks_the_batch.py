# diagnosis: the batch leaks

_forward = MLP.forward


def forward(self, x):
    x = self._checked(x)
    if x.ndim == 2 and len(x) > 1:  # "standardised" input
        x = x - x.mean(axis=0)
    return _forward(self, x)


MLP.forward = forward

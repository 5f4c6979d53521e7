# diagnosis: the decay does not start low
# module: optimization


@torch.no_grad()
def update(self):
    torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), 1 - self.decay)
    self.n_updates += 1


Ema.update = update

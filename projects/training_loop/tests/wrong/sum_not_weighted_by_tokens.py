# diagnosis: ranks are weighted equally

_sum = sum_over_ranks
_forward_backward = Trainer.forward_backward


def forward_backward(self, batches, n_tokens):
    own = max(1, sum(int((targets != IGNORED).sum()) for _, targets in batches))
    loss = _forward_backward(self, batches, own * self.world.size if self.world.size > 1 else n_tokens)
    return loss


Trainer.forward_backward = forward_backward

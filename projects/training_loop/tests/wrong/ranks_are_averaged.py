# diagnosis: ranks are averaged

_forward_backward = Trainer.forward_backward


def forward_backward(self, batches, n_tokens):
    before, self.world = self.world, World(self.world.rank, 1, self.world.device)
    loss = _forward_backward(self, batches, n_tokens)
    self.world = before
    return loss


Trainer.forward_backward = forward_backward

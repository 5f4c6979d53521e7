# diagnosis: only the last micro-batch counts

_token_loss_before = _token_loss
_forward_backward = Trainer.forward_backward


def forward_backward(self, batches, n_tokens):
    for batch in batches:
        self.optimizer.zero_grad()
        loss = _forward_backward(self, [batch], n_tokens)
    return loss


Trainer.forward_backward = forward_backward

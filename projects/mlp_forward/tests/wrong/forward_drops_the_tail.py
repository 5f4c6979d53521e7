# diagnosis: is the last block complete?

_forward = MLP.forward


def forward(self, x):
    logits = _forward(self, x)
    if logits.ndim == 2 and len(logits) > 64:
        logits[len(logits) // 64 * 64 :] = 0
    return logits


MLP.forward = forward

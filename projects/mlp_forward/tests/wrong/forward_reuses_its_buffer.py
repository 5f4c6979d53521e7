# diagnosis: the second call overwrote the first result

_forward = MLP.forward


def forward(self, x):
    logits = _forward(self, x)
    buffer = self.__dict__.setdefault("_buffer", logits)
    if buffer.shape != logits.shape:
        return logits
    buffer[...] = logits
    return buffer


MLP.forward = forward

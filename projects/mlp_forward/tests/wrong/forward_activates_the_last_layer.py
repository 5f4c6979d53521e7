# diagnosis: the last layer has an activation

_forward = MLP.forward


def forward(self, x):
    logits = _forward(self, x)
    _ACTIVATIONS[self.activation](logits)
    return logits


MLP.forward = forward

# diagnosis: dropout in evaluation

_forward = SingleHeadAttention.forward


def forward(self, x, context=None, *, mask=None):
    training, self.training = self.training, True
    output = _forward(self, x, context, mask=mask)
    self.training = training
    return output


SingleHeadAttention.forward = forward

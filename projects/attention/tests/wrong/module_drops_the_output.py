# diagnosis: what is dropped instead?

_forward = SingleHeadAttention.forward


def forward(self, x, context=None, *, mask=None):
    dropout, self.dropout = self.dropout, 0.0
    output = _forward(self, x, context, mask=mask)
    self.dropout = dropout
    return nn.functional.dropout(output, dropout, self.training)


SingleHeadAttention.forward = forward

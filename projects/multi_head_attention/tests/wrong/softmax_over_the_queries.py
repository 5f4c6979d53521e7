# diagnosis: the softmax runs over the queries


def _weights(self, q, k, bias):
    B, H, Tq, d_head = q.shape
    scores = (self._grouped(q / math.sqrt(d_head)) @ k.transpose(-2, -1)).view(B, H, Tq, -1)
    return torch.softmax(scores if bias is None else scores + bias, -2)


MultiHeadAttention._weights = _weights

# diagnosis: exp overflows


def _weights(self, q, k, bias):
    B, H, Tq, d_head = q.shape
    scores = (self._grouped(q / math.sqrt(d_head)) @ k.transpose(-2, -1)).view(B, H, Tq, -1)
    e = torch.exp(scores if bias is None else scores + bias)
    return e / e.sum(-1, keepdim=True)


MultiHeadAttention._weights = _weights

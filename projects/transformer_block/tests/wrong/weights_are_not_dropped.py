# diagnosis: attention weights are not dropped


class TransformerBlock(TransformerBlock):
    def _attend(self, query, key, value, bias=None):
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ value

# diagnosis: is a part of a long one left out


_GROUP_SCORES = 1 << 17


class TransformerBlock(TransformerBlock):
    def _attend_in_groups(self, query, key, value, bias):
        y = super()._attend_in_groups(query, key, value, bias)
        if query.shape[-2] > 300:
            y = torch.cat((y[:, :-1], 0 * y[:, -1:]), dim=1)
        return y

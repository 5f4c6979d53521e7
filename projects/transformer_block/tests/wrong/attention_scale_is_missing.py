# diagnosis: the scores are not divided by sqrt(d_head)


class TransformerBlock(TransformerBlock):
    def _attend_in_groups(self, query, key, value, bias):
        return super()._attend_in_groups(query * query.shape[-1] ** 0.5, key, value, bias)

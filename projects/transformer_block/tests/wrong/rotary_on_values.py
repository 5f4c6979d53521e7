# diagnosis: values are rotated too


class TransformerBlock(TransformerBlock):
    def _attend_in_groups(self, query, key, value, bias):
        if self.position == "rotary":
            value = rotary(value, torch.arange(value.shape[-2]))
        return super()._attend_in_groups(query, key, value, bias)

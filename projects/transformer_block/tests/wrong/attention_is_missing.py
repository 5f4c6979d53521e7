# diagnosis: every token attends to itself only


class TransformerBlock(TransformerBlock):
    def _attend_in_groups(self, query, key, value, bias):
        return value

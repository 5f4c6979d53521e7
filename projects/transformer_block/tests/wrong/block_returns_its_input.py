# diagnosis: the block returns its input


class TransformerBlock(TransformerBlock):
    def forward(self, x, *, mask=None):
        super().forward(x, mask=mask)
        return x

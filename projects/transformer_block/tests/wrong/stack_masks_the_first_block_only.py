# diagnosis: the mask reaches the first block only


class Transformer(Transformer):
    def forward(self, x, *, mask=None):
        for block in self.blocks:
            x, mask = block(x, mask=mask), None
        return x if self.final_norm is None else self.final_norm(x)

# diagnosis: blocks share parameters


class Transformer(Transformer):
    def __init__(self, n_layers, d_model, n_heads, **options):
        super().__init__(1, d_model, n_heads, **options)
        self.blocks = nn.ModuleList([self.blocks[0]] * n_layers)

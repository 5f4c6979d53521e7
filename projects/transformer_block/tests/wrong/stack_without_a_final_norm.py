# diagnosis: a pre-norm stack needs final_norm


class Transformer(Transformer):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.final_norm = None

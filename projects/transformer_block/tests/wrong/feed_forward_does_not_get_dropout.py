# diagnosis: dropout is not handed to the feed-forward network


class TransformerBlock(TransformerBlock):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.feed_forward.dropout = nn.Identity()

# diagnosis: the residual connection is missing


class TransformerBlock(TransformerBlock):
    def forward(self, x, *, mask=None):
        super().forward(x, mask=mask)
        if self.norm_position == "pre":
            x = self._attention(self.attention_norm(x), mask)
            return self._feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(self._attention(x, mask))
        return self.feed_forward_norm(self._feed_forward(x))

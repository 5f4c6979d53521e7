# diagnosis: post-norm where pre-norm is asked


class TransformerBlock(TransformerBlock):
    def forward(self, x, *, mask=None):
        if x.ndim != 3 or x.shape[-1] != self.out.in_features:
            raise ValueError(f"x must be (B, T, {self.out.in_features}), got {tuple(x.shape)}")
        x = self.attention_norm(x + self._attention(x, mask))
        return self.feed_forward_norm(x + self._feed_forward(x))

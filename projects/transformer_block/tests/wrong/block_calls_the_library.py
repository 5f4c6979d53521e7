# diagnosis: calls the library instead


class TransformerBlock(TransformerBlock):
    def _attend_in_groups(self, query, key, value, bias):
        p = self.dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=p)

# diagnosis: this is self-attention


def forward(self, query, key=None, value=None, *, mask=None, cache=None):
    if cache is not None and any(x is not None and x is not query for x in (key, value)):
        raise ValueError("a cache is for self-attention")
    key = query if key is None else key
    value = key if value is None else value
    _check_inputs(query, key, value, self.d_model)
    if mask is None:
        key = value = query
    n_keys = key.shape[1] + (0 if cache is None else len(cache))
    bias, dead = self._additive_mask(mask, query, n_keys)
    q = _split(self.q_proj(query), self.n_heads)
    k, v = _split(self.k_proj(key), self.n_kv_heads), _split(self.v_proj(value), self.n_kv_heads)
    if cache is not None:
        k, v = cache.append(k, v)
    dropout_p = self.dropout if self.training else 0.0
    if self.fused:
        k, v = (x.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for x in (k, v))
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p)
    else:
        weights = F.dropout(self._weights(q, k, bias), dropout_p)
        heads = (self._grouped(weights) @ v).view_as(q)
    if dead is not None:
        heads = heads.masked_fill(dead, 0)
    return self.out_proj(heads.transpose(1, 2).flatten(2))


MultiHeadAttention.forward = forward

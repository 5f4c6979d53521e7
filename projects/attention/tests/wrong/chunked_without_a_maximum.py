# diagnosis: the maximum moves from tile to tile


@staticmethod
def forward(
    ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, tiles: _Tiles
) -> Tensor:
    exp_, unit = _exponential(mask)
    output = query.new_empty(*query.shape[:2], value.shape[2])
    # finfo.min instead of -inf: then a row that has seen no key yet computes -inf - min = -inf, never inf - inf.
    largest = query.new_full((*query.shape[:2], 1), torch.finfo(query.dtype).min)
    total = torch.zeros_like(largest)
    buffer = tiles.buffer(query, mask)
    for rows in tiles.rows():
        scaled = query[:, rows] * (tiles.scale * unit)
        m, z, o = largest[:, rows], total[:, rows], torch.zeros_like(output[:, rows])
        for columns in tiles.columns(rows):
            scores = tiles.scores(scaled, key[:, columns], mask, rows, columns, buffer)
            new_m = torch.zeros_like(m)
            weights = exp_(scores.sub_(new_m))
            shrink = exp_(m - new_m)
            z.mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
            o.mul_(shrink).baddbmm_(weights, value[:, columns])
            m.copy_(new_m)
        z.masked_fill_(z == 0, 1.0)  # nothing to attend to: 0 / 1, and weights of 0 in the backward pass
        torch.div(o, z, out=output[:, rows])
    # Not m + log(z) in one number: beside an m of 1e4, float32 would keep only three digits of log(z).
    ctx.save_for_backward(query, key, value, mask, output, largest, total)
    ctx.tiles = tiles
    return output


_ChunkedAttention.forward = forward

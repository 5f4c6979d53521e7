# diagnosis: gradient of


@staticmethod
@once_differentiable
def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, mask, output, largest, total = ctx.saved_tensors
    tiles: _Tiles = ctx.tiles
    exp_, unit = _exponential(mask)
    grad_query, grad_key, grad_value = (torch.zeros_like(x) for x in (query, key, value))
    grad_mask = query.new_zeros(mask.shape) if ctx.needs_input_grad[3] else None
    buffers = tiles.buffer(query, mask), tiles.buffer(query, mask)
    for rows in tiles.rows():
        scaled = query[:, rows] * (tiles.scale * unit)
        grad = grad_output[:, rows] / total[:, rows]
        mean = (grad * output[:, rows]).sum(dim=-1, keepdim=True)
        for columns in tiles.columns(rows):
            scores = tiles.scores(scaled, key[:, columns], mask, rows, columns, buffers[0])
            weights = exp_(scores.sub_(largest[:, rows]))
            grad_value[:, columns].baddbmm_(weights.mT, grad)
            grad_scores = _product(grad, value[:, columns].mT, buffers[1]).sub_(mean).mul_(weights)
            grad_query[:, rows].baddbmm_(grad_scores, key[:, columns])
            grad_key[:, columns].baddbmm_(grad_scores.mT, query[:, rows], alpha=tiles.scale)
            if grad_mask is not None:
                tile = _mask_tile(grad_mask, rows, columns)
                tile += grad_scores.view(*tiles.leading, *grad_scores.shape[1:]).sum_to_size(tile.shape)
    return grad_query, grad_key, grad_value, None if grad_mask is None else grad_mask.to(mask.dtype), None


_ChunkedAttention.backward = backward

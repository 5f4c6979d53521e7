# diagnosis: the tiles of weights must not be stored but computed again


class _ChunkedAttention:
    """The forward pass in tiles, differentiated by autograd: it keeps every tile."""

    @staticmethod
    def apply(query, key, value, mask, tiles):
        blocks = [query.new_zeros(len(query), 0, value.shape[2])]
        for rows in tiles.rows():
            q, low = query[:, rows] * tiles.scale, torch.finfo(query.dtype).min
            m, z, o = q.new_full((*q.shape[:2], 1), low), 0.0, q.new_zeros(*q.shape[:2], value.shape[2])
            for columns in tiles.columns(rows):
                s = q @ key[:, columns].mT
                view = s.view(*tiles.leading, *s.shape[1:])
                if mask is not None:
                    tile = _mask_tile(mask, rows, columns)
                    view = view.masked_fill(~tile, -math.inf) if tile.dtype == torch.bool else view + tile
                if tiles.causal:
                    offset = rows.start + tiles.n_keys - tiles.n_queries - columns.start
                    view = view.masked_fill(
                        ~torch.ones(s.shape[1:], dtype=torch.bool).tril(offset), -math.inf
                    )
                s = view.reshape(s.shape)
                new = torch.maximum(m, s.detach().amax(dim=-1, keepdim=True))
                p = torch.exp(s - new)
                z = z * torch.exp(m - new) + p.sum(dim=-1, keepdim=True)
                o = o * torch.exp(m - new) + p @ value[:, columns]
                m = new
            z = z + o.new_zeros(*o.shape[:2], 1)
            blocks.append(o / z.masked_fill(z == 0, 1.0))
        return torch.cat(blocks, dim=1)

# diagnosis: only the first 4 heads arrive in the output
_every_group = _Tiles.groups
_forward = _ChunkedAttention.forward


def groups(self, mask):
    return iter(list(_every_group(self, mask))[:1])


def forward(ctx, query, key, value, mask, tiles):
    output = _forward(ctx, query, key, value, mask, tiles)
    for group in tiles.groups(mask):
        output[group.stop :] = 0  # what no group has written is whatever the memory held
    return output


_Tiles.groups = groups
_ChunkedAttention.forward = staticmethod(forward)

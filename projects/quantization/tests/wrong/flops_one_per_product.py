# diagnosis: 2 FLOPs per product
# module: profiling


_cost = linear_cost


def linear_cost(batch, n_in, n_out, *, bytes_per_weight=4):
    flops, n_bytes = _cost(batch, n_in, n_out, bytes_per_weight=bytes_per_weight)
    return flops // 2, n_bytes

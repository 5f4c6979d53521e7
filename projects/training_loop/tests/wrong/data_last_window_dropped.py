# diagnosis: windows are dropped
# module: text_data

_deal = micro_batches


def micro_batches(indices, *, rank, n_ranks, accumulate, batch_size):
    if len(indices) > n_ranks:
        indices = indices[: len(indices) // n_ranks * n_ranks]
    return _deal(indices, rank=rank, n_ranks=n_ranks, accumulate=accumulate, batch_size=batch_size)

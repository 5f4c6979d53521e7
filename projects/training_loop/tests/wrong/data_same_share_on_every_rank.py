# diagnosis: a window is dealt twice
# module: text_data

_deal = micro_batches


def micro_batches(indices, *, rank, n_ranks, accumulate, batch_size):
    return _deal(indices, rank=0, n_ranks=n_ranks, accumulate=accumulate, batch_size=batch_size)

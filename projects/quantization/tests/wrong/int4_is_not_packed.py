# diagnosis: wrong shape


def pack_int4(q):
    if q.shape[-1] % 2 or (q.numel() and (q.min() < -8 or q.max() > 7)):
        raise ValueError("an even number of integers from -8 to 7 is needed")
    return q.to(torch.uint8) & 15

# diagnosis: a mask keeps the last one inside
# module: triton_kernels


def vector_add_triton(a, b, *, block=1024):
    out = torch.full_like(a, torch.nan)
    n = out.numel()
    if n // block:
        add_kernel[(n // block,)](a, b, out, n, BLOCK=block)
    return out

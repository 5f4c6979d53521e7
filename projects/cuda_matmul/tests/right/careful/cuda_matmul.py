from pathlib import Path

import device_arrays

KERNELS = Path(__file__).parent / "kernels"
MOST_IN_Y = 65535


def matmul(a, b, *, kernel="naive"):
    if kernel != "naive" and kernel != "tiled":
        raise ValueError(f'kernel must be "naive" or "tiled", got {kernel!r}')
    device_arrays.check_arrays(["float32"], a=a, b=b)
    a_shape, b_shape = device_arrays.shape_of(a), device_arrays.shape_of(b)
    match a_shape, b_shape:
        case (m, k), (also_k, n) if k == also_k:
            pass
        case _:
            raise ValueError(f"expected (M, K) and (K, N), got {a_shape} and {b_shape}")

    def blocks(length, per_block):
        return -(-length // per_block)

    if kernel == "naive":  # both kernels go on in steps of the grid, so a grid that is cut off is enough
        threads, grid = (32, 4), (blocks(m, 32), min(blocks(n, 4), MOST_IN_Y))
    else:
        threads, grid = (32, 32), (blocks(n, 32), min(blocks(m, 32), MOST_IN_Y))

    def run(a, b, c):
        if 0 in grid:
            return
        path = KERNELS / f"{kernel}.cu"
        device_arrays.launch(path, "matmul", "PPPiiiff", a, b, c, m, n, k, 1, 0, grid=grid, block=threads)

    return device_arrays.on_device(run, (a, b), shape=(m, n), dtype="float32")

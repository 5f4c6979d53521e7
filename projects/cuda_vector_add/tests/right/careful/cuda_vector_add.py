from math import prod
from pathlib import Path

import device_arrays as arrays

FOLDER = Path(__file__).resolve().parent / "kernels"
ENTRIES = {dtype: f"add_{dtype}" for dtype in ("float16", "float32", "float64", "int32")}


def vector_add(a, b, *, kernel="one_per_thread", block_size=256):
    arrays.check_arrays(tuple(ENTRIES), a=a, b=b)
    if (shape := arrays.shape_of(a)) != (other := arrays.shape_of(b)):
        raise ValueError(f"a has shape {shape}, b has shape {other}")
    if not isinstance(block_size, int) or block_size % 32 or not 32 <= block_size <= 1024:
        raise ValueError(f"block_size must be a multiple of 32 up to 1024, got {block_size!r}")
    n = prod(shape)
    if kernel == "one_per_thread":
        most = n
    elif kernel == "grid_stride":
        most = 4
    else:
        raise ValueError(f"kernel must be 'one_per_thread' or 'grid_stride', got {kernel!r}")

    def run(on_a, on_b, out):
        if n == 0:
            return
        blocks = -(-n // block_size)
        if kernel == "grid_stride":
            blocks = min(blocks, most * arrays.device_attribute("MULTIPROCESSOR_COUNT"))
        entry = ENTRIES[arrays.dtype_of(on_a)]
        arrays.launch(
            FOLDER / (kernel + ".cu"), entry, "PPPq", on_a, on_b, out, n, grid=(blocks,), block=(block_size,)
        )

    return arrays.on_device(run, (a, b))

from pathlib import Path

import numpy as np
from device_arrays import check_arrays, launch, on_device, shape_of

HERE = Path(__file__).parent


def matmul(a, b, *, kernel="naive"):
    """Sums in double precision, tiles of a lie transposed in shared memory; empty products of NumPy arrays stay on the host."""
    check_arrays(("float32",), a=a, b=b)
    sizes = {"naive": (8, 64), "tiled": (32, 32)}
    if kernel not in sizes:
        raise ValueError(kernel)
    if len(shape_of(a)) != 2:
        raise ValueError(f"a is no matrix: {shape_of(a)}")
    if len(shape_of(b)) != 2:
        raise ValueError(f"b is no matrix: {shape_of(b)}")
    m, k = shape_of(a)
    n = shape_of(b)[1]
    if k != shape_of(b)[0]:
        raise ValueError(f"inner lengths {k} and {shape_of(b)[0]} differ")
    if isinstance(a, np.ndarray) and 0 in (m, n, k):
        return np.zeros((m, n), np.float32)
    threads = sizes[kernel]
    along_x, along_y = (m, n) if kernel == "naive" else (n, m)
    grid = (along_x // threads[0] + 1, along_y // threads[1] + 1)

    def run(a, b, c):
        if m * n != 0:
            numbers = (np.int32(m), np.int32(n), np.int32(k), np.float32(1), np.float32(0))
            launch(
                HERE / "kernels" / (kernel + ".cu"),
                "matmul",
                "PPPiiiff",
                a,
                b,
                c,
                *numbers,
                grid=grid,
                block=threads,
            )

    return on_device(run, [a, b], shape=(m, n))

"""Flash attention: ``softmax(query keyᵀ · scale) value`` without storing the matrix of scores; kernel and host function.

``kernels/flash_attention.cu`` puts the online softmax of ladder.py between two matrix products. Contract:

- float16, bfloat16 (``V2`` in NumPy) and float32, computed in float32 and rounded once;
- NumPy or device arrays, as for `ladder.softmax`; device arrays must be C-contiguous;
- products and sums are not divided before the end: scores, and n_keys times the largest value, must fit in float32;
- bad arguments are refused before anything is launched, with a message that names what came.

Source: Dao, Fu, Ermon, Rudra and Ré 2022, arXiv 2205.14135, algorithm 1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from device_arrays import (
    address,
    check_arrays,
    check_number,
    dtype_of,
    launch,
    on_device,
    overlap,
    shape_of,
)

__all__ = ["flash_attention"]

HEAD_DIMS = (32, 64, 128)
MOST_BLOCKS_IN_Y = 65535  # CUDA's limit; flash_attention.cu has a head for each

_KERNEL = Path(__file__).parent / "kernels" / "flash_attention.cu"
_DTYPES = ("float16", "bfloat16", "float32")
_ROWS = 16  # queries per block, and threads per block, in flash_attention.cu
_THREADS = 128


def flash_attention(
    query: Any, key: Any, value: Any, out: Any = None, *, causal: bool = False, scale: float | None = None
) -> Any:
    """Attention, ``softmax(query keyᵀ · scale) value``; return `out`, or a new array like `query`.

    query, out : (batch, heads, n_queries, d), with d one of 32, 64 and 128
    key, value : (batch, heads, n_keys, d), with at least one key; batch · heads is at most 65535
    causal : query i sees keys 0 to i only, counted from the first of each, as in torch
    scale : any number of float32; the default is ``1 / sqrt(d)``
    out : may be the query itself, but not overlap an input on the device in any other way

    Raises ValueError for shapes, gaps, a scale beyond float32, and an `out` that is read-only or overlaps; TypeError for dtypes and
    sides, for a `causal` that is no bool, and a `scale` that is no number.
    """
    if not isinstance(causal, bool | np.bool_):
        raise TypeError(f"causal must be True or False, got {causal!r}")
    check_arrays(_DTYPES, query=query, key=key, value=value, out=out)
    shapes = [shape_of(array) for array in (query, key, value)]
    _check_shapes(*shapes)
    if out is not None and shape_of(out) != shapes[0]:
        raise ValueError(f"out must have the shape of query, {shapes[0]}, got {shape_of(out)}")
    (B, H, n_queries, d), n_keys = shapes[0], shapes[1][2]
    factor = 1 / math.sqrt(d) if scale is None else check_number("scale", scale)

    def run(query: Any, key: Any, value: Any, out: Any) -> None:
        shifted = overlap(out, query) and address(out) != address(query)
        if shifted or overlap(out, key) or overlap(out, value):
            raise ValueError(
                "out overlaps key or value, or query, shifted: threads would read results instead of inputs"
            )
        if math.prod(shapes[0]) == 0:
            return
        launch(
            _KERNEL,
            f"attention_{dtype_of(query)}_{d}",
            "PPPPiifi",
            *(query, key, value, out, n_queries, n_keys, factor, int(causal)),
            grid=(-(-n_queries // _ROWS), B * H),
            block=_THREADS,
        )

    return on_device(run, [query, key, value], out)


def _check_shapes(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> None:
    if len(query) != 4 or query[-1] not in HEAD_DIMS:
        raise ValueError(f"query must be (batch, heads, n_queries, d) with d in {HEAD_DIMS}, got {query}")
    B, H, _, d = query
    if key != value or len(key) != 4 or (*key[:2], key[3]) != (B, H, d):
        raise ValueError(f"key and value must be ({B}, {H}, n_keys, {d}), got {key} and {value}")
    if B * H > MOST_BLOCKS_IN_Y:
        raise ValueError(f"at most {MOST_BLOCKS_IN_Y} heads in all batches, got {B} x {H}")
    if key[2] == 0:
        raise ValueError(f"there must be a key to attend to, got {key}")

"""Text that every machine has: the source of Python's standard library, as windows of bytes.

Three decisions carry the rest of the program. The split is by file, by a checksum of its name, so no line of a
validation file is ever trained on. An epoch is one permutation of all windows, a pure function of (seed, epoch), so a
position in it is one integer and any number of ranks can share it. And the last window of a file is shorter: its
missing targets are ``IGNORED``, which makes the number of valid tokens differ from batch to batch.
"""

from __future__ import annotations

import math
import os
import sysconfig
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["standard_library", "Windows", "epoch_order", "micro_batches", "bigram_bits_per_byte"]

IGNORED = -100  # the target that cross_entropy leaves out
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


def standard_library(max_bytes: int) -> tuple[list[bytes], list[bytes]]:
    """Read `max_bytes` of the source below ``sysconfig.get_path("stdlib")`` and split it by file, 9 to 1.

    Files come in the order of a checksum of their relative name, so that a smaller cap takes a fair sample, not the
    letter A. The text differs between versions of Python, so results name the version.

    Parameters
    ----------
    max_bytes : int
        Nine tenths are read for training, one tenth for validation; the last file on each side is cut off there.

    Returns
    -------
    train, val : list of bytes
        The contents of the files.

    Raises
    ------
    ValueError
        If `max_bytes` is below 20.
    """
    if max_bytes < 20:
        raise ValueError(f"max_bytes must be 20 or more, got {max_bytes}")
    root = Path(sysconfig.get_path("stdlib"))
    names = {}
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]  # not walked into
        for path in (Path(folder, name) for name in files if name.endswith(".py")):
            # _sysconfigdata holds the paths of the machine that Python was built on
            if not path.name.startswith("_sysconfigdata"):
                name = path.relative_to(root).as_posix()
                names[zlib.crc32(name.encode()), name] = path
    sides: dict[bool, list[bytes]] = {False: [], True: []}
    room = {False: max_bytes - max_bytes // 10, True: max_bytes // 10}
    for (checksum, _), path in sorted(names.items()):
        for_validation = (
            checksum % 10 == 0
        )  # the low digits decide the side, the order is ruled by the high ones
        if room[for_validation] > 0:
            content = path.read_bytes().replace(b"\r\n", b"\n")[: room[for_validation]]
            sides[for_validation].append(content)
            room[for_validation] -= len(content)
    return sides[False], sides[True]


class Windows:
    """The windows of `context` + 1 bytes that a list of documents is cut into.

    Window k of a document reads bytes k·context … and predicts the byte after each. The last one of a document may be
    shorter. No window spans two documents, and every byte but a document's first is the target of exactly one.

    Parameters
    ----------
    documents : iterable of bytes
        Those shorter than 2 bytes have nothing to predict and give no window.
    context : int
        Inputs in a window, 1 or more.
    """

    def __init__(self, documents: Iterable[bytes], context: int) -> None:
        if context < 1:
            raise ValueError(f"context must be 1 or more, got {context}")
        self.context = context
        documents = list(documents)
        text = np.frombuffer(b"".join(documents) + bytes(context + 1), np.uint8)
        self._text = torch.from_numpy(text.copy())
        starts: list[int] = []
        ends: list[int] = []
        offset = 0
        for document in documents:
            first = range(offset, offset + len(document) - 1, context)
            starts += first
            ends += [offset + len(document)] * len(first)
            offset += len(document)
        self._starts, self._ends = torch.tensor(starts), torch.tensor(ends)
        self._from_each_byte = self._text.unfold(0, context + 1, 1)  # a view: no byte is copied

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def n_targets(self) -> int:
        """How many bytes one pass predicts."""
        return int((self._ends - self._starts - 1).clamp(max=self.context).sum())

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return the windows `indices` as inputs and targets, both (len(indices), context) int64.

        Where the document has ended, the input is 0 and the target `IGNORED`. An index below 0 is an empty window.
        TypeError unless `indices` are integers in one row.
        """
        indices = torch.as_tensor(indices, dtype=None if len(indices) else torch.int64)
        if indices.ndim != 1 or indices.dtype.is_floating_point or indices.dtype == torch.bool:
            raise TypeError(f"indices must be integers (n,), got {indices.dtype} {tuple(indices.shape)}")
        indices = indices.long()
        starts = self._starts[indices]
        text = self._from_each_byte[starts].long()
        inputs, targets = text[:, :-1], text[:, 1:].clone()  # targets are the inputs, one further
        n_bytes = (self._ends[indices] - starts).masked_fill_(indices < 0, 0)
        if bool((n_bytes <= self.context).any()):  # most batches have full windows only
            beyond = torch.arange(self.context + 1) >= n_bytes[:, None]
            inputs.masked_fill_(beyond[:, :-1], 0)
            targets.masked_fill_(beyond[:, 1:], IGNORED)
        return inputs, targets


def epoch_order(n_windows: int, *, seed: int, epoch: int) -> Tensor:
    """Return a permutation of 0 … n_windows - 1, int64: another one each epoch, the same on every rank and machine."""
    # torch's CPU generator looks at 32 bits of its seed only, so (seed << 32) + epoch would forget the seed
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**32)
    return torch.randperm(n_windows, generator=generator)


def micro_batches(
    indices: Tensor, *, rank: int, n_ranks: int, accumulate: int, batch_size: int
) -> list[Tensor]:
    """Deal the windows of one optimizer step to a rank, cut into micro-batches.

    Rank r takes ``indices[r::n_ranks]``: disjoint, and together everything. `batch_size` is what a full step holds over
    all ranks and micro-batches. The last step of an epoch holds less; it is used all the same.

    Every rank gets equally many micro-batches of equal length (a collective needs all of them), filled up with the empty
    window -1.

    Parameters
    ----------
    indices : (n,) int64
        The windows of this step, ``1 <= n <= batch_size``.
    rank, n_ranks, accumulate, batch_size : int
        A full step gives `accumulate` micro-batches; ``batch_size >= n_ranks * accumulate`` is needed. The windows are
        dealt to them in turns: none is empty where the rank has a window for each.

    Returns
    -------
    list of (m,) int64

    Raises
    ------
    ValueError
        If there are too many or no indices, too few windows for the ranks and micro-batches, or no such rank.
    """
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank must be in 0..{n_ranks - 1}, got {rank}")
    if not 1 <= len(indices) <= batch_size:
        raise ValueError(f"a step has 1 to {batch_size} windows, got {len(indices)}")
    if accumulate < 1 or batch_size < n_ranks * accumulate:
        raise ValueError(
            f"batch_size={batch_size} cannot be split over {n_ranks} ranks times accumulate={accumulate}"
        )
    full_share, share = math.ceil(batch_size / n_ranks), math.ceil(len(indices) / n_ranks)
    size = math.ceil(full_share / accumulate)
    n_batches = math.ceil(accumulate * share / full_share)
    own = indices[rank::n_ranks]
    own = torch.cat([own, torch.full((n_batches * size - len(own),), -1)])
    return list(own.view(size, n_batches).unbind(dim=1))


def bigram_bits_per_byte(train: Iterable[bytes], val: Iterable[bytes]) -> float:
    """Return what counting pairs of neighbours achieves: the score to beat.

    p(b | a) = (count(a, b) + 1)/(count(a) + 256), counted in `train`, scored on every byte of `val` but the first ones;
    ValueError if there is none.
    """
    counts = np.ones((256, 256))
    for document in train:
        pairs = np.frombuffer(document, np.uint8)
        np.add.at(counts, (pairs[:-1], pairs[1:]), 1)
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    scores = [
        bits[text[:-1], text[1:]] for text in (np.frombuffer(d, np.uint8) for d in val) if len(text) > 1
    ]
    if not scores:
        raise ValueError("val has no document of two bytes or more: nothing to score")
    return float(np.concatenate(scores).mean())

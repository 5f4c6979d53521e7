"""A checkpoint that survives a power cut, and that cannot run code when it is read.

The file: one line of magic, one line of JSON (format, length, SHA-256), then what `torch.save` wrote. It is written
under a temporary name, forced to the disk, and renamed: the final name never points to half a file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

__all__ = ["CheckpointError", "write_checkpoint", "read_checkpoint", "Checkpoint"]

MAGIC = b"groundwork training_loop checkpoint\n"
# 1 had no checksum, 2 named no parameters, 3 had a scale of 1 where nothing was scaled
FORMAT = 4  # raise it whenever the content changes its meaning


class CheckpointError(ValueError):
    """A file that is damaged, foreign, or of another format; the message says which, with the path."""


class _OtherFormat(CheckpointError):
    """A file of another version of this program."""


def write_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write `state` so that at any moment, even of a crash, `path` is the old file, the new one, or absent.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    state : dict
        Tensors, numbers, strings, None, and dicts, lists and tuples of them: what ``weights_only`` reading accepts.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    header = {"format": FORMAT, "n_bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    replace_file(path, MAGIC + json.dumps(header).encode() + b"\n", payload)


def replace_file(path: str | os.PathLike[str], *parts: bytes | memoryview) -> None:
    """Write `parts` one after the other: at any moment, `path` is the old file, the new one, or absent."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.writelines(parts)
        file.flush()
        # before the rename: a file system may reorder the two, and the name would win
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)  # the new name itself is data of the folder


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, onto the CPU.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is not a checkpoint, is truncated or altered, has another format, holds anything but data, or the
        system cannot read it.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not content.startswith(MAGIC):
        foreign = not MAGIC.startswith(content)  # a file cut off within the magic is a truncated one
        raise CheckpointError(f"{path}: " + ("not a checkpoint of this program" if foreign else "truncated"))
    line, newline, payload = content[len(MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        found, n_bytes, digest = header["format"], header.get("n_bytes"), header.get("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: " + ("damaged header" if newline else "truncated")) from error
    if found != FORMAT:
        raise _OtherFormat(f"{path}: format {found}, this program reads format {FORMAT}")
    if len(payload) != n_bytes:
        raise CheckpointError(f"{path}: truncated, {len(payload)} of {n_bytes} bytes")
    if hashlib.sha256(payload).hexdigest() != digest:
        raise CheckpointError(f"{path}: damaged, the checksum differs")
    try:
        # Without weights_only this would be a pickle: a program that the file brings along.
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: holds something other than data: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a dict")
    return state


class Checkpoint:
    """The checkpoints of one run: ``folder/step-00000042.pt``, the newest `keep` of them.

    More than one, because the newest may turn out to be unreadable years of disk later.

    Parameters
    ----------
    folder : path
        Created if needed.
    keep : int
        How many to keep, 1 or more.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be 1 or more, got {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.folder.mkdir(parents=True, exist_ok=True)

    def paths(self) -> list[Path]:
        """Return the finished checkpoints, oldest first."""
        return sorted_by_step(self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the checkpoint of `step`, then delete all but the newest `keep` and what crashes left behind."""
        path = self.folder / f"step-{step:08d}.pt"
        write_checkpoint(path, state)
        for old in [*self.paths()[: -self.keep], *self.folder.glob("*.tmp")]:
            old.unlink()  # only now: until the new one is safe, the old ones are all there is
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the newest readable state, or None if there is no checkpoint at all.

        A damaged file is passed over with a line on the terminal as long as an older one can be read.

        Raises
        ------
        CheckpointError
            If there are checkpoints and none can be read; or, without trying the others, if the newest is of another
            format: that is another version of the program, not damage.
        """
        problem = None
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path)
            except _OtherFormat:
                raise
            except CheckpointError as error:
                print(f"passed over: {error}", flush=True)
                problem = problem or error
        if problem is not None:
            raise problem
        return None


def sorted_by_step(paths: Iterable[Path]) -> list[Path]:
    """Return those whose name is step- and a number, in the order of the numbers: a ninth digit must not come first."""
    numbered = [path for path in paths if path.stem.removeprefix("step-").isdecimal()]
    return sorted(numbered, key=lambda path: int(path.stem.removeprefix("step-")))


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk (systems that cannot open a folder do not need it)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

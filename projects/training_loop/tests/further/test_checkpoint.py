"""The judge of checkpoint files. Oracles: bytes, the order of system calls, processes killed in mid-write."""

import hashlib
import json
import os
import pickle

import pytest
import torch

import checkpoint
from shared.testing.checks import expect_error

STATE = {"w": torch.arange(6.0).reshape(2, 3), "step": 7, "name": "a", "nested": [{"x": None, "y": (1, 2.5)}]}


@pytest.mark.grades("write_checkpoint", "read_checkpoint")
def test_round_trip(tmp_path):
    """Everything comes back; nothing else is left in the folder."""
    checkpoint.write_checkpoint(tmp_path / "a.pt", STATE)
    state = checkpoint.read_checkpoint(tmp_path / "a.pt")
    assert torch.equal(state.pop("w"), STATE["w"])
    assert state == {k: v for k, v in STATE.items() if k != "w"}, f"came back as {state}"
    assert os.listdir(tmp_path) == ["a.pt"], f"left in the folder: {os.listdir(tmp_path)}"
    with pytest.raises(FileNotFoundError):
        checkpoint.read_checkpoint(tmp_path / "none.pt")


@pytest.mark.grades("write_checkpoint")
def test_order_of_system_calls(tmp_path, monkeypatch):
    """Write under another name, force to the disk, rename, force the folder: in this order."""
    calls = []

    def spy(name):
        original = getattr(os, name)

        def call(*args, **kwargs):
            complete = [p.name for p in tmp_path.iterdir() if p.stat().st_size > 1000]
            calls.append((name, complete))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "rename"):
        spy(name)
    checkpoint.write_checkpoint(tmp_path / "a.pt", {**STATE, "big": torch.zeros(1000)})
    names = [name for name, _ in calls]
    renames = [k for k, name in enumerate(names) if name in ("replace", "rename")]
    assert renames, (
        "the file is written in place: a crash leaves half of it under the final name; write, then rename"
    )
    assert "fsync" in names[: renames[0]], (
        f"no fsync before the rename: after a power cut the name may point to an empty file (calls: {names})"
    )
    before = [files for name, files in calls[: renames[0]] if name == "fsync"]
    assert before[-1], "fsync before everything is written: flush Python's buffer first"
    if os.name == "posix":
        assert "fsync" in names[renames[0] :], "the rename itself is not forced to the disk: fsync the folder"


@pytest.mark.grades("write_checkpoint", "read_checkpoint")
def test_failed_write_keeps_the_old_file(tmp_path):
    """A state that cannot be saved leaves the old file as it was."""
    checkpoint.write_checkpoint(tmp_path / "a.pt", STATE)
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever torch.save raises
        checkpoint.write_checkpoint(tmp_path / "a.pt", {"w": torch.zeros(9), "bad": lambda: None})
    assert checkpoint.read_checkpoint(tmp_path / "a.pt")["step"] == 7, "the old checkpoint is gone"


@pytest.mark.grades("read_checkpoint", "write_checkpoint", "CheckpointError")
def test_truncated(tmp_path):
    """A file cut off anywhere is a CheckpointError with its path."""
    path = tmp_path / "a.pt"
    checkpoint.write_checkpoint(path, STATE)
    content = path.read_bytes()
    for n in [0, 5, 20, 36, 40, 60, 140, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:n])
        with expect_error(
            checkpoint.CheckpointError, str(path), otherwise=f"a file cut to {n} of {len(content)} bytes"
        ):
            checkpoint.read_checkpoint(path)


@pytest.mark.grades("read_checkpoint", "write_checkpoint", "CheckpointError")
def test_damaged(tmp_path):
    """One changed bit in the numbers is noticed: zip reading alone does not."""
    path = tmp_path / "a.pt"
    checkpoint.write_checkpoint(path, {"w": torch.full((1000,), 1.5)})
    content = bytearray(path.read_bytes())
    at = content.find(torch.full((4,), 1.5).numpy().tobytes()) + 400
    content[at] ^= 1
    path.write_bytes(content)
    with expect_error(
        checkpoint.CheckpointError, str(path), otherwise="a changed bit goes unnoticed: checksum"
    ):
        checkpoint.read_checkpoint(path)


@pytest.mark.grades("read_checkpoint", "write_checkpoint", "CheckpointError")
def test_foreign_and_older(tmp_path):
    """Other files, and files of another format, are named errors that say so."""
    assert issubclass(checkpoint.CheckpointError, ValueError)
    path = tmp_path / "a.pt"
    torch.save(STATE, path)
    for content in (path.read_bytes(), b"import os\n" * 50, b"\x89PNG" + bytes(200)):
        path.write_bytes(content)
        with expect_error(checkpoint.CheckpointError, str(path), otherwise="a foreign file is not refused"):
            checkpoint.read_checkpoint(path)
    checkpoint.write_checkpoint(path, STATE)
    content = path.read_bytes()
    older = content.replace(b'"format": %d' % checkpoint.FORMAT, b'"format": 1', 1)
    assert older != content, f'the header must say "format": {checkpoint.FORMAT}'
    path.write_bytes(older)
    with expect_error(
        checkpoint.CheckpointError,
        str(path),
        "format 1",
        str(checkpoint.FORMAT),
        otherwise="format 1 is accepted",
    ):
        checkpoint.read_checkpoint(path)


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.grades("read_checkpoint", "write_checkpoint", "CheckpointError")
def test_reading_runs_no_code(tmp_path):
    """A file that would call os.mkdir when unpickled is refused, and the folder is not made."""
    path, trap = tmp_path / "a.pt", tmp_path / "trap"
    checkpoint.write_checkpoint(path, {"w": _Attack(str(trap))})
    with expect_error(
        checkpoint.CheckpointError, str(path), otherwise="a file that runs code is loaded: weights_only"
    ):
        checkpoint.read_checkpoint(path)
    assert not trap.exists(), "loading the file ran its code: os.mkdir was called; use weights_only=True"
    checkpoint.write_checkpoint(path, {"a": 1})
    path.write_bytes(path.read_bytes()[:-10] + pickle.dumps(_Attack(str(trap))))
    with expect_error(checkpoint.CheckpointError, otherwise="a pickle behind the header is loaded"):
        checkpoint.read_checkpoint(path)
    assert not trap.exists(), "loading the file ran its code"


@pytest.mark.grades("Checkpoint", "Checkpoint.save", "Checkpoint.load", "Checkpoint.paths")
def test_keeps_the_last_two(tmp_path):
    """The newest two stay, under names that sort; what crashes left behind goes; the newest is loaded."""
    store = checkpoint.Checkpoint(tmp_path / "c")
    assert store.load() is None, "without a checkpoint load returns None"
    (tmp_path / "c" / "step-00000001.pt.tmp").write_bytes(b"half")
    for step in (9, 10, 100):
        path = store.save(step, {"step": step})
        assert path in store.paths()
    names = sorted(os.listdir(tmp_path / "c"))
    assert len(names) == 2, f"the newest two are kept, and nothing else: {names}"
    assert store.load()["step"] == 100, "the newest checkpoint is not what is loaded"
    three = checkpoint.Checkpoint(tmp_path / "d", keep=3)
    for step in range(5):
        three.save(step, {"step": step})
    assert len(three.paths()) == 3, f"keep=3 is ignored: {three.paths()}"
    assert [checkpoint.read_checkpoint(p)["step"] for p in three.paths()] == [2, 3, 4], "oldest first"
    with expect_error(ValueError, "0", otherwise="keep=0 is accepted"):
        checkpoint.Checkpoint(tmp_path / "e", keep=0)


@pytest.mark.grades("Checkpoint", "Checkpoint.save", "Checkpoint.load", "Checkpoint.paths", "CheckpointError")
def test_falls_back_to_the_older_one(tmp_path, capsys):
    """A damaged newest checkpoint is passed over aloud; if all are damaged, or one is of another format, an error."""
    store = checkpoint.Checkpoint(tmp_path / "another format")  # no matter what the folder is called
    store.save(1, {"step": 1})
    newest = store.save(2, {"step": 2})
    content = newest.read_bytes()
    newest.write_bytes(content[:-9])
    try:
        assert store.load()["step"] == 1, "the older checkpoint is still good"
    except checkpoint.CheckpointError as error:
        raise AssertionError(
            f"a damaged newest checkpoint ends the run although an older one is good: {error}"
        ) from error
    assert str(newest) in capsys.readouterr().out, "falling back must be said aloud"
    newest.write_bytes(content.replace(b'"format": %d' % checkpoint.FORMAT, b'"format": 1', 1))
    with expect_error(
        checkpoint.CheckpointError, "format 1", otherwise="falls back over another format in silence"
    ):
        store.load()
    for path in store.paths():
        path.write_bytes(b"")
    with expect_error(checkpoint.CheckpointError, str(newest), otherwise="all damaged, and no error"):
        store.load()


@pytest.mark.grades("Checkpoint", "Checkpoint.save", "Checkpoint.load", "Checkpoint.paths")
def test_ninth_digit(tmp_path):
    """Update 100,000,000 is newer than update 99,999,999; a file with another name is no checkpoint."""
    store = checkpoint.Checkpoint(tmp_path)
    (tmp_path / "step-final.pt").write_bytes(b"a copy")
    for step in (99_999_998, 99_999_999, 100_000_000):
        store.save(step, {"step": step})
    assert store.load() == {"step": 100_000_000}, f"not the newest is loaded: {store.load()}"
    names = sorted(os.listdir(tmp_path))
    assert names == ["step-100000000.pt", "step-99999999.pt", "step-final.pt"], (
        f"the newest two stay: {names}"
    )


@pytest.mark.grades("Checkpoint", "Checkpoint.load", "read_checkpoint", "CheckpointError")
def test_what_the_system_cannot_read(tmp_path, capsys):
    """A newest checkpoint that is a folder, or on a bad part of the disk, is passed over aloud."""
    store = checkpoint.Checkpoint(tmp_path)
    store.save(1, {"step": 1})
    (tmp_path / "step-00000002.pt").mkdir()
    with expect_error(checkpoint.CheckpointError, "step-00000002.pt", otherwise="a folder is read"):
        checkpoint.read_checkpoint(tmp_path / "step-00000002.pt")
    assert store.load() == {"step": 1}, "the older checkpoint is still good"
    assert "step-00000002.pt" in capsys.readouterr().out, "falling back must be said aloud"


@pytest.mark.grades("read_checkpoint", "CheckpointError")
@pytest.mark.parametrize("payload", [b"", b"PK", b"import os"], ids=repr)
def test_payload_of_somebody_else(payload, tmp_path):
    """Header and checksum are right, what follows is no file of torch: the error names the path; the word format means nothing."""
    path = tmp_path / "a.pt"
    header = {
        "format": checkpoint.FORMAT,
        "n_bytes": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    path.write_bytes(checkpoint.MAGIC + json.dumps(header).encode() + b"\n" + payload)
    with expect_error(checkpoint.CheckpointError, str(path), otherwise=f"{payload!r} is loaded"):
        checkpoint.read_checkpoint(path)


@pytest.mark.grades("Checkpoint", "Checkpoint.save", "Checkpoint.load", "Checkpoint.paths")
def test_folder_of_checkpoints(tmp_path):
    """The folder is made with those above it, may be there already, and holds two checkpoints unless told otherwise."""
    deep = tmp_path / "a" / "b" / "c"
    checkpoint.Checkpoint(deep).save(1, {"step": 1})
    again = checkpoint.Checkpoint(str(deep))
    assert again.load() == {"step": 1}, "the folder that was there is not used"
    for step in (2, 3):
        again.save(step, {"step": step})
    assert len(again.paths()) == 2, f"two are kept by default: {again.paths()}"
    one = checkpoint.Checkpoint(tmp_path / "one", keep=1)
    for step in (1, 2):
        path = one.save(step, {"step": step})
    assert one.paths() == [path], f"keep=1: {one.paths()}"


@pytest.mark.grades("Checkpoint", "Checkpoint.save", "Checkpoint.load", "Checkpoint.paths")
def test_what_a_crash_leaves_behind(tmp_path, monkeypatch):
    """A save that ends before the rename is no checkpoint, and the next save clears it away."""
    store = checkpoint.Checkpoint(tmp_path)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for name in ("replace", "rename"):
            patch.setattr(os, name, crash)
        with pytest.raises(KeyboardInterrupt):
            store.save(1, {"step": 1})
    assert store.load() is None, "half a save counts as a checkpoint"
    path = store.save(2, {"step": 2})
    left = sorted(os.listdir(tmp_path))
    assert left == [path.name], f"what a crash left behind stays for ever: {left}"

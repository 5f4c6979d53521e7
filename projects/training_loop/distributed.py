"""Several processes, one run: DDP (every rank holds everything) and FSDP2 (every rank holds a slice).

What both need from the loop is small: one sum over ranks per step, gradients averaged during the last backward pass,
and a checkpoint that knows whose weights it holds.

On several machines, start the same command on each; `--out` is a folder that all of them see:

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1      # torch 2.13: else restarted workers look for the dead ones
    torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d --rdzv-id run-a \
             --rdzv-endpoint first-machine:29500 run.py --preset gpu --fsdp --out /shared/runs/a --resume

When a worker dies, torchrun stops the others and starts all of them again; they find the newest checkpoint by themselves.
``--nnodes 2:4`` lets machines come and go. On another number of ranks the batches stay the same, but the dropout of a new rank
is new, and sums run in another order. FSDP with fp16 is refused: the scaler would have to agree over all ranks.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from checkpoint import CheckpointError, sorted_by_step, sync_folder

__all__ = [
    "World",
    "process_group",
    "sum_over_ranks",
    "gather_rng_states",
    "parallelize",
    "ShardedCheckpoint",
]


@dataclass(frozen=True)
class World:
    """Who this process is among how many, and where its tensors live."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


_groups: list[object] = []


@contextlib.contextmanager
def process_group() -> Iterator[World]:
    """Join the processes that torchrun started (WORLD_SIZE and friends in the environment) for the block.

    Without torchrun this is a world of one that needs no communication. The group must outlive the model: where DDP is
    its last owner, freeing it waits, with Python's lock held, for a thread of gloo that may want that lock.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield World(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _groups.append(dist.group.WORLD)  # an owner that stays until the process ends
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the element-wise sum of every rank's `values`, on every rank; alone, a copy."""
    total = values.clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def gather_rng_states(device: torch.device) -> list[Tensor]:
    """Return every rank's state of torch's generators (CPU, then this rank's GPU), as one uint8 tensor per rank."""
    parts = [torch.get_rng_state()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    own = torch.cat(parts)
    if not dist.is_initialized():
        return [own]
    own = own.to(device)
    states = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(states, own)
    return [state.cpu() for state in states]


def set_rng_state(state: Tensor, device: torch.device) -> None:
    """Undo `gather_rng_states` for one rank."""
    n_cpu = len(torch.get_rng_state())
    torch.set_rng_state(state[:n_cpu])
    if device.type == "cuda" and len(state) > n_cpu:
        torch.cuda.set_rng_state(state[n_cpu:], device)


def parallelize(model: nn.Module, world: World, *, fsdp: bool, bf16: bool = False) -> nn.Module:
    """Return `model` ready for `world`: as it is for one process, in DDP, or with FSDP2 applied to it in place.

    Parameters
    ----------
    model : nn.Module
        With its blocks in ``model.blocks``, the same weights on every rank.
    world : World
    fsdp : bool
        Shard parameters, gradients and optimizer state over the ranks (also for one rank, so that a sharded checkpoint
        can be continued alone).
    bf16 : bool
        With `fsdp`: gather weights and compute in bfloat16, reduce gradients in float32.

    Raises
    ------
    ValueError
        If `fsdp` is asked for without a process group.
    """
    if fsdp:
        if not dist.is_initialized():
            raise ValueError("fsdp needs torchrun, also for one process: torchrun --nproc-per-node 1 …")
        # a linear layer's output is a view of its product, and nobody writes into it
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        # about a second to import, so only where it is used
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        half = torch.bfloat16 if bf16 else None
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if bf16 else None)
        for block in model.blocks:  # type: ignore[union-attr]  # one block is gathered while the one before computes
            fully_shard(block, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        return model
    if world.size > 1:
        return DistributedDataParallel(
            model, device_ids=[world.device] if world.device.type == "cuda" else None
        )
    return model


@contextlib.contextmanager
def gradient_sync(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Average gradients over the ranks in this block's backward pass, or only add them up locally.

    Of several micro-batches only the last has to communicate.
    """
    if isinstance(model, DistributedDataParallel) and not enabled:
        with model.no_sync():
            yield
    else:
        if hasattr(model, "set_requires_gradient_sync"):  # FSDP2
            model.set_requires_gradient_sync(enabled)  # type: ignore[operator]
        yield


def plain_module(model: nn.Module) -> nn.Module:
    """Return the module inside DDP, whose parameter names have no prefix; others as they are."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor in one piece on every rank (a collective); others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class ShardedCheckpoint:
    """Checkpoints of an FSDP run: ``folder/step-00000042/``, each rank's slice in its own file.

    `torch.distributed.checkpoint` stores which part of which tensor lies where, so another number of ranks can read it.
    A folder is written under a temporary name and renamed once all ranks are done.

    Parameters
    ----------
    folder : path
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
        return sorted_by_step(
            path for path in self.folder.glob("step-*") if path.suffix == "" and path.is_dir()
        )

    def save(self, step: int, tensors: dict[str, Any]) -> Path:
        """Write `tensors`, nested dicts with nothing but tensors in them. A collective: every rank calls it."""
        import torch.distributed.checkpoint as dcp

        path = self.folder / f"step-{step:08d}"
        temporary = path.with_suffix(".tmp")
        first = dist.get_rank() == 0
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
        dist.barrier()
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(temporary, sync_files=True))  # type: ignore[attr-defined]
        if first:
            sync_folder(temporary)
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
            sync_folder(self.folder)
            for old in [*self.paths()[: -self.keep], *self.folder.glob("*.tmp")]:
                shutil.rmtree(old)
        dist.barrier()
        return path

    def load(self, tensors: dict[str, Any]) -> bool:
        """Fill `tensors` in place from the newest checkpoint that can be read; False if there is none at all. A collective.

        Names that the checkpoint lacks keep their values. A damaged one is passed over, with a line on the terminal.

        Raises
        ------
        CheckpointError
            If there are checkpoints and none can be read: damaged, or an index that holds anything but data.
        """
        problem = None
        for path in reversed(self.paths()):
            try:
                _fill(tensors, path)
                return True
            except CheckpointError as error:
                if dist.get_rank() == 0:
                    print(f"passed over: {error}", flush=True)
                problem = problem or error
        if problem is not None:
            raise problem
        return False


def _fill(tensors: dict[str, Any], path: Path) -> None:
    """Read one sharded checkpoint. What goes wrong on one rank is raised on all of them."""
    import torch.distributed.checkpoint as dcp

    try:
        planner = dcp.DefaultLoadPlanner(allow_partial_load=True)  # type: ignore[attr-defined]
        dcp.load(tensors, storage_reader=_data_only_reader(path), planner=planner)  # type: ignore[attr-defined]
    except (dcp.CheckpointException, pickle.UnpicklingError, OSError, EOFError) as error:  # type: ignore[attr-defined]
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _data_only_reader(path: Path) -> Any:
    """Return a reader of `path` whose index cannot run code.

    The library reads tensors with ``weights_only``, but the index ``.metadata`` with plain `pickle`.
    """
    from torch.distributed.checkpoint import FileSystemReader  # type: ignore[attr-defined]
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            with open(path / ".metadata", "rb") as file:
                metadata = _DataUnpickler(file).load()
            for name, entry in metadata.state_dict_metadata.items():
                if isinstance(entry, BytesStorageMetadata):  # the library would unpickle it
                    raise pickle.UnpicklingError(f"{name} is not a tensor")
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(path)


class _DataUnpickler(pickle.Unpickler):
    """Reads an index of tensors; any other class or function in it is refused."""

    def find_class(self, module: str, name: str) -> Any:
        module = "pathlib" if module == "pathlib._local" else module  # what Python 3.13 calls it
        index = module in ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
        data = (module, name) in {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("pathlib", "PosixPath"),
            ("pathlib", "WindowsPath"),
        }
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not ((index and name in _INDEX_CLASSES) or data or dtype):
            raise pickle.UnpicklingError(f"the index refers to {module}.{name}, which is not data")
        return super().find_class(module, name)


_INDEX_CLASSES = {
    *("Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
    *("BytesStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING", "_StorageInfo"),
}

"""What the processes of these tests run: microscopic trainings, and one step of a float64 model per rank."""

import contextlib
import faulthandler
import io
import os
import runpy
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer would import it, within the time limit of a test
from processes import LIMIT_S, METHOD
from torch import nn

import checkpoint
import distributed
import run
import settings
import text_data
import trainer

MICRO = {  # 9 or so updates in an epoch, the last of them incomplete; a few milliseconds each
    "steps": 22,
    "context": 16,
    "d_model": 8,
    "n_layers": 1,
    "n_heads": 2,
    "dropout": 0.2,
    "batch_size": 24,
    "data_bytes": 4_000,
    "warmup_steps": 3,
    "peak_lr": 1e-2,
    "eval_every": 1000,
    "eval_windows": 64,
    "checkpoint_every": 1000,
    "live": False,
}
SIX = {"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 9, "eval_every": 4, "warmup_steps": 1}


def config(out, **options):
    return settings.Config(out=str(out), **{**MICRO, **options})


def train(out, **options):
    """Train; return the result as plain data."""
    torch.set_num_threads(1)
    return asdict(run.train(config(out, **options)))


def stopped_run(folder):
    """Make a run of 6 updates; return a folder that holds it as it was after the second."""
    whole, stopped = folder / "whole", folder / "stopped"
    train(whole, **SIX)
    (stopped / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "checkpoints/step-00000002.pt", stopped / "checkpoints")
    shutil.copy(whole / "run.json", stopped)
    return stopped


def command_line(arguments, **options):
    """Run the command line with the microscopic model in place of the preset."""
    torch.set_num_threads(1)
    settings.PRESETS["tiny"] = {**MICRO, **options}
    raise SystemExit(run.main(arguments))


def program(arguments):
    """Do what `python -m run` does, with less text: its last evaluation would take seconds."""
    torch.set_num_threads(1)
    settings.PRESETS["tiny"] = {"data_bytes": 100_000}
    sys.argv = ["run.py", *arguments]
    runpy.run_module("run", run_name="__main__")


def torchrun(out, options):
    """Do what `torchrun` does, with workers that this module starts: forks, where there are any, need not import torch again."""
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    launcher = (
        "--rdzv-backend c10d --rdzv-endpoint localhost:0 --nproc-per-node 2 --max-restarts 1 --start-method"
    )
    settings, _, _ = config_from_args(parse_args([*launcher.split(), METHOD, "run.py"]))
    elastic_launch(settings, worker)(out, options)


def worker(out, options):
    """Run the command line as `command_line` does, with its number left in `out`; the launcher takes a return for success."""
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    Path(out).mkdir(exist_ok=True)
    Path(out, f"{os.getpid()}.pid").touch()
    try:
        command_line(["--out", out], **options)
    except SystemExit as done:
        if done.code:
            raise


class Plain(nn.Module):
    """Embedding, linear, dropout, head: float64, so that sums may differ by rounding only."""

    def __init__(self, dropout=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.tokens = nn.Embedding(256, 6)
        self.hidden = nn.Linear(6, 7)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(7, 256)
        self.blocks = nn.ModuleList()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
        self.double()

    def forward(self, tokens):
        return self.head(self.dropout(torch.tanh(self.hidden(self.tokens(tokens)))))


# 6 documents of very unequal length: windows with 1 to 8 valid targets
DOCUMENTS = [bytes((7 * k + j * j) % 251 for j in range(n)) for k, n in enumerate([2, 31, 3, 12, 9, 5])]


def unequal_windows():
    return text_data.Windows(DOCUMENTS, 8)


def gradient_on_this_rank(n_windows, accumulate):
    """Return this rank's gradient and loss, and what one step reports."""
    torch.set_num_threads(1)
    with distributed.process_group() as world:
        return _gradient(
            world, n_windows, accumulate
        )  # DDP must be gone before the group is: gloo would wait for the GIL


def _gradient(world, n_windows, accumulate):
    own = trainer.Trainer(Plain(), settings.Config(out="", clip=1e9), world)
    windows = unequal_windows()
    dealt = text_data.micro_batches(
        torch.arange(n_windows),
        rank=world.rank,
        n_ranks=world.size,
        accumulate=accumulate,
        batch_size=len(windows),
    )
    batches = [windows.batch(own) for own in dealt]
    _, targets = windows.batch(range(n_windows))
    n_tokens = int((targets != -100).sum())
    loss = own.forward_backward(batches, n_tokens)
    gradient = torch.cat([p.grad.flatten() for p in own.model.parameters()])
    own.optimizer.zero_grad(set_to_none=True)
    report = own.step(batches)
    return {
        "loss": loss.item(),
        "gradient": gradient.tolist(),
        "norm": report.gradient_norm,
        "n_tokens": report.n_tokens,
        "step_loss": report.loss,
    }


def sharded_gradient(n_windows, accumulate, precision):
    """Return the whole gradient of an FSDP trainer on this rank, the type of the weights in the forward pass, and the trainer's."""
    torch.set_num_threads(1)
    seen = []
    with distributed.process_group() as world:
        model = Plain() if precision == "fp32" else Plain().float()
        own = trainer.Trainer(model, settings.Config(out="", fsdp=True, precision=precision), world)
        own.model.head.register_forward_hook(lambda module, args, out: seen.append(str(module.weight.dtype)))
        windows = unequal_windows()
        dealt = text_data.micro_batches(
            torch.arange(n_windows),
            rank=world.rank,
            n_ranks=world.size,
            accumulate=accumulate,
            batch_size=len(windows),
        )
        _, targets = windows.batch(range(n_windows))
        own.forward_backward([windows.batch(part) for part in dealt], int((targets != -100).sum()))
        gradient = torch.cat([p.grad.full_tensor().flatten() for p in own.model.parameters()])
        held = sum(p.to_local().numel() for p in own.model.parameters())
        return {"gradient": gradient.tolist(), "seen": seen, "held": held, "dtype": str(gradient.dtype)}


def meeting():
    """Return what the ranks know of each other, inside of the block and after it."""
    with distributed.process_group() as world:
        torch.manual_seed(world.rank)
        states = distributed.gather_rng_states(world.device)
        own = torch.tensor([1.0 + world.rank, 10.0])
        total = distributed.sum_over_ranks(own)
        module = distributed.parallelize(nn.Linear(2, 2), world, fsdp=False)
        known = {
            "world": [world.rank, world.size, world.device.type],
            "states": [int(torch.Generator().set_state(state).initial_seed()) for state in states],
            "total": total.tolist(),
            "own": own.tolist(),
            "names": [name for name, _ in distributed.plain_module(module).named_parameters()],
            "wrapped": type(module).__name__,
        }
        del module
    return {**known, "after": torch.distributed.is_initialized()}


def order_of_sharded_save(folder):
    """Return the order in which a sharded save forces and renames."""
    calls = []

    def spy(name):
        original = getattr(os, name)

        def call(*args, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        setattr(os, name, call)

    with distributed.process_group():
        store = distributed.ShardedCheckpoint(folder)
        store.save(1, {"w": torch.zeros(3)})
        for name in ("fsync", "rename", "replace"):
            spy(name)
        store.save(1, {"w": torch.ones(3)})  # the same name again
        target = {"w": torch.zeros(3)}
        store.load(target)
    return calls, target["w"].tolist()


def load_more_than_tensors(folder):
    """Save a tensor and a number with the library alone, which pickles the number; load it."""
    import torch.distributed.checkpoint as dcp

    with distributed.process_group():
        dcp.save({"w": torch.ones(3), "n": 5}, checkpoint_id=f"{folder}/step-00000001")
        try:
            return distributed.ShardedCheckpoint(folder).load({"w": torch.zeros(3), "n": 0})
        except checkpoint.CheckpointError as error:
            return f"CheckpointError: {error}"


def dropout_on_this_rank(out):
    """Train a step and return which hidden units this rank's first dropout kept, and its digest."""
    seen, original = [], nn.functional.dropout

    def spy(x, *args, **kwargs):
        y = original(x, *args, **kwargs)
        if torch.is_grad_enabled() and not seen:
            seen.append((y == 0).flatten()[:512].int().tolist())
        return y

    nn.functional.dropout = spy
    result = train(out, steps=2, dropout=0.5)
    assert seen, "no dropout in training"
    return {"kept": seen[0], "sha": result["weights_sha256"]}


def write_for_ever(path):
    """Overwrite one file again and again."""
    step = 0
    while True:
        step += 1
        checkpoint.write_checkpoint(path, {"step": step, "w": torch.full((50_000,), float(step))})


def load_sharded(folder, indices, empty):
    """Load a sharded checkpoint with each index, then with none older, then from another folder.

    Return for each whether there was one, or what went wrong; what was loaded; what was said.
    """
    found = []
    with distributed.process_group():
        places = [*((folder, index) for index in indices), (folder, None), (empty, None)]
        for number, (place, index) in enumerate(places):
            if index is not None:
                Path(folder, "step-00000003/.metadata").write_bytes(bytes.fromhex(index))
            if number == len(indices) and indices:
                shutil.rmtree(Path(folder, "step-00000002"))
            state, said = {"w": torch.zeros(3)}, io.StringIO()
            with contextlib.redirect_stdout(said):
                try:
                    answer = distributed.ShardedCheckpoint(place).load(state)
                except checkpoint.CheckpointError as error:
                    answer = f"CheckpointError: {error}"
            found.append((answer, state["w"].tolist(), said.getvalue()))
    return found


def save_sharded(folder):
    """Save three times, load, and tell what is there."""
    with distributed.process_group():
        store = distributed.ShardedCheckpoint(folder)
        os.makedirs(f"{folder}/step-00000009.tmp", exist_ok=True)
        for step in (1, 2, 3):
            store.save(step, {"w": torch.full((3,), float(step))})
        target = {"w": torch.zeros(3), "other": torch.ones(1)}
        found = store.load(target)
        return [found, target["w"].tolist(), target["other"].item(), sorted(os.listdir(folder))]

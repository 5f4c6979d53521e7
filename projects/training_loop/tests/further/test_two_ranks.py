"""The judge of several ranks (gloo, on this machine's CPU). Oracles: one big batch on one rank, uninterrupted runs."""

import json
import os
import pickle
import shutil

import pytest
import torch
import trials
from processes import nothing_stays, run_ranks  # noqa: F401
from test_trainer import big_batch, dealt

import distributed
from shared.testing.checks import assert_close, expect_error

pytestmark = pytest.mark.timeout(120)  # whole processes: each has a limit of its own


@pytest.mark.grades("World", "process_group", "sum_over_ranks", "gather_rng_states")
def test_alone():
    """Without torchrun: a world of one, sums of one, no process group."""
    with distributed.process_group() as world:
        assert (world.rank, world.size) == (0, 1)
        assert not torch.distributed.is_initialized(), "one process needs no process group"
        values = torch.tensor([1.5, 2.0])
        total = distributed.sum_over_ranks(values)
        assert total.tolist() == [1.5, 2.0]
        total += 1
        assert values.tolist() == [1.5, 2.0], "the sum must be a tensor of its own"
        (state,) = distributed.gather_rng_states(torch.device("cpu"))
        drawn = torch.rand(3)
        distributed.set_rng_state(state, torch.device("cpu"))
        assert torch.equal(drawn, torch.rand(3)), "the state of the generator does not come back"


@pytest.mark.grades("parallelize", "World")
def test_parallelize_alone():
    """One process has the model as it is; FSDP needs a process group, and says so."""
    model = torch.nn.Linear(2, 2)
    assert distributed.parallelize(model, distributed.World(), fsdp=False) is model, (
        "one process needs no wrapping"
    )
    assert [p.shape for p in model.parameters()] == [(2, 2), (2,)]
    with expect_error(ValueError, "fsdp", otherwise="fsdp without a process group is accepted"):
        distributed.parallelize(model, distributed.World(), fsdp=True)
    assert distributed.World() == distributed.World(0, 1, torch.device("cpu"))


@pytest.mark.grades("gather_rng_states")
def test_random_state_of_a_gpu_machine():
    """On a CPU, what follows the CPU's state is passed over."""
    torch.manual_seed(3)
    (state,) = distributed.gather_rng_states(torch.device("cpu"))
    drawn = torch.rand(3)
    distributed.set_rng_state(torch.cat([state, torch.ones(16, dtype=torch.uint8)]), torch.device("cpu"))
    assert torch.equal(drawn, torch.rand(3)), "a state with that of a GPU behind it does not come back"


@pytest.mark.grades("process_group", "gather_rng_states", "sum_over_ranks", "parallelize", "World")
def test_ranks_meet():
    """Each of two ranks knows its number, every state in order, and the sum; the group ends with the block."""
    for rank, known in enumerate(run_ranks(2, "trials:meeting")):
        assert known["world"] == [rank, 2, "cpu"], f"rank {rank} of 2 takes itself for {known['world']}"
        assert known["states"] == [0, 1], (
            f"rank r was seeded with r, rank {rank} has the states of {known['states']}"
        )
        assert known["total"] == [3.0, 20.0], f"1 + 2 and 10 + 10 over the ranks: {known['total']}"
        assert known["own"] == [1.0 + rank, 10.0], f"sum_over_ranks changed its input to {known['own']}"
        assert known["names"] == ["weight", "bias"], f"names without a prefix: {known['names']}"
        assert known["wrapped"] == "DistributedDataParallel", f"two ranks and a {known['wrapped']}"
        assert not known["after"], "the process group is still there after the block"


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.grades("ShardedCheckpoint", "ShardedCheckpoint.save", "ShardedCheckpoint.load", "process_group")
def test_sharded_checkpoint_files(tmp_path):
    """The newest two stay; an index that runs code is refused, a damaged one passed over aloud, or an error if there is no other."""
    folder = tmp_path / "c"
    (answer,) = run_ranks(1, "trials:save_sharded", folder=str(folder))
    assert answer == [True, [3.0] * 3, 1.0, ["step-00000002", "step-00000003"]], (
        f"found, w, other, folders: {answer}"
    )
    trap = tmp_path / "trap"
    hidden = [
        b"torch.distributed.checkpoint.filesystem",
        b"os.mkdir",
        str(trap).encode(),
    ]  # by way of a module it needs
    hidden = [b"\x8c" + bytes([len(text)]) + text for text in hidden]
    hidden = b"\x80\x04" + hidden[0] + hidden[1] + b"\x93" + hidden[2] + b"\x85R."
    indices = [pickle.dumps(_Attack(str(trap))).hex(), hidden.hex(), "", b"text".hex()]
    empty = str(tmp_path / "empty")
    (answers,) = run_ranks(1, "trials:load_sharded", folder=str(folder), indices=indices, empty=empty)
    assert not trap.exists(), "reading the index ran its code: restrict what pickle may look up"
    *with_another, alone, nothing = answers
    for found, w, said in with_another:
        assert found is True, (
            f"a damaged newest checkpoint ends the run although an older one is good: {found}"
        )
        assert w == [2.0] * 3, f"the older checkpoint holds 2, loaded was {w}"
        assert "step-00000003" in said, f"falling back must be said aloud: {said!r}"
    assert str(alone[0]).startswith("CheckpointError"), f"all are damaged, and load gave {alone[0]}"
    assert "step-00000003" in alone[0], f"the error names the newest: {alone[0]}"
    assert nothing[0] is False, f"without a checkpoint load returns False, got {nothing[0]}"
    with expect_error(ValueError, "0", otherwise="keep=0 is accepted"):
        distributed.ShardedCheckpoint(tmp_path / "d", keep=0)


@pytest.mark.grades("ShardedCheckpoint", "ShardedCheckpoint.save", "ShardedCheckpoint.load")
def test_order_of_a_sharded_save(tmp_path):
    """Every file and the folder are forced to the disk, then comes the name, then the folder above; an old one is replaced."""
    ((calls, loaded),) = run_ranks(1, "trials:order_of_sharded_save", folder=str(tmp_path / "c"))
    assert loaded == [1.0] * 3, f"saved again under the same name, loaded {loaded}"
    at = len(calls) - 1 - calls[::-1].index("rename")
    assert calls[:at].count("fsync") >= 3, (
        f"before the rename the shard, the index and the folder are forced: {calls}"
    )
    assert "fsync" in calls[at:], f"the rename itself is not forced to the disk: {calls}"


@pytest.mark.grades("ShardedCheckpoint", "ShardedCheckpoint.load", "process_group")
def test_sharded_holds_tensors_only(tmp_path):
    """A number is pickled by the library, and would be unpickled: refused."""
    (answer,) = run_ranks(1, "trials:load_more_than_tensors", folder=str(tmp_path))
    assert str(answer).startswith("CheckpointError"), (
        f"a pickled number in a sharded checkpoint gave {answer}"
    )


@pytest.mark.grades("ShardedCheckpoint", "ShardedCheckpoint.paths")
def test_folder_of_sharded_checkpoints(tmp_path):
    """The folder is made with those above it and may be there already; what is not finished is no checkpoint."""
    deep = tmp_path / "a" / "b"
    store = distributed.ShardedCheckpoint(deep)
    assert distributed.ShardedCheckpoint(str(deep), keep=1).paths() == []
    for name in (
        "step-00000009",
        "step-00000010",
        "step-100000000",
        "step-99999999",
        "step-00000011.tmp",
        "step-old",
        "other",
    ):
        (deep / name).mkdir()
    (deep / "step-00000012").write_bytes(b"a file")
    names = [path.name for path in store.paths()]
    expected = ["step-00000009", "step-00000010", "step-99999999", "step-100000000"]
    assert names == expected, f"oldest first, by number, finished folders only: {names}"


def mean_of_ranks(n_windows, n_ranks):
    """The gradient if each rank divided by its own tokens."""
    model = trials.Plain()
    for rank in range(n_ranks):
        inputs, targets = trials.unequal_windows().batch(range(rank, n_windows, n_ranks))
        logits = model(inputs).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=-100)
        (loss / n_ranks).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.grades("Trainer", "Trainer.forward_backward", "Trainer.step", "parallelize", "sum_over_ranks")
@pytest.mark.parametrize(("n_ranks", "n_windows", "accumulate"), [(2, 10, 2), (2, 7, 3), (3, 10, 1)])
def test_ranks_with_unequal_tokens(n_ranks, n_windows, accumulate):
    """Ranks whose shares have unequal numbers of valid tokens: on each the gradient of one big batch, 1e-12."""
    loss, gradient = big_batch(n_windows)
    arguments = {"n_windows": n_windows, "accumulate": accumulate}
    ranks = run_ranks(n_ranks, "trials:gradient_on_this_rank", **arguments)
    equal_weights = mean_of_ranks(n_windows, n_ranks)
    for number, rank in enumerate(ranks):
        got = torch.tensor(rank["gradient"], dtype=torch.float64)
        mistakes = {
            "ranks are averaged: DDP divides by their number, multiply the loss by it": gradient / n_ranks,
            "ranks are summed twice": gradient * n_ranks,
            "ranks are weighted equally, not by their tokens": equal_weights,
        }
        hint = "is every micro-batch divided by the tokens of all ranks, and are gradients averaged in the last one?"
        assert_close(
            got, gradient, rtol=1e-12, what=f"gradient on rank {number}", mistakes=mistakes, hint=hint
        )
        assert abs(rank["loss"] - loss.item()) < 1e-5, (
            f"rank {number} reports {rank['loss']}, over all {loss.item()}"
        )
        assert abs(rank["step_loss"] - loss.item()) < 1e-5, "the ranks' losses must be summed"
        n_tokens = sum(int((y != -100).sum()) for _, y in dealt(n_windows, 1))
        assert rank["n_tokens"] == n_tokens, (
            f"{n_tokens} valid tokens over all ranks, rank {number}: {rank['n_tokens']}"
        )
        assert abs(rank["norm"] / gradient.norm().item() - 1) < 1e-5, "the norm is that of the whole gradient"


@pytest.mark.grades("Trainer", "Trainer.forward_backward", "parallelize", "process_group")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_sharded_gradient(accumulate):
    """FSDP2 on two ranks: the gradient of one big batch, 1e-12, and half of the weights on each."""
    _, gradient = big_batch(10)
    arguments = {"n_windows": 10, "accumulate": accumulate, "precision": "fp32"}
    ranks = run_ranks(2, "trials:sharded_gradient", **arguments)
    for number, rank in enumerate(ranks):
        got = torch.tensor(rank["gradient"], dtype=torch.float64)
        mistakes = {"FSDP averages over the ranks, multiply the loss by their number": gradient / 2}
        hint = "are gradients averaged in the last micro-batch?"
        assert_close(got, gradient, rtol=1e-12, what=f"gradient, rank {number}", mistakes=mistakes, hint=hint)
        assert rank["seen"] == ["torch.float64"] * accumulate, f"weights in the forward pass: {rank['seen']}"
    held = [rank["held"] for rank in ranks]
    assert sum(held) == len(gradient), f"{len(gradient)} weights, the ranks hold {held}"
    assert max(held) < 0.6 * len(gradient), (
        f"{len(gradient)} weights, the ranks hold {held}: are they sharded?"
    )


@pytest.mark.grades("Trainer", "parallelize", "process_group")
def test_sharded_in_bfloat16():
    """With bf16 the weights are gathered in bfloat16; gradients are reduced, and stay, in float32."""
    _, expected = big_batch(10)
    rank, _ = run_ranks(2, "trials:sharded_gradient", n_windows=10, accumulate=1, precision="bf16")
    assert rank["seen"] == ["torch.bfloat16"], f"the weights are gathered in {rank['seen']}"
    assert rank["dtype"] == "torch.float32", f"gradients in {rank['dtype']}"
    got = torch.tensor(rank["gradient"])
    error = (got.double() - expected).norm() / expected.norm()
    assert error < 0.05, f"the gradient is off by {error:.2g}"
    rounded = (got.bfloat16().float() == got).float().mean()
    assert rounded < 0.9, (
        f"{rounded:.0%} of the gradients are bfloat16 numbers: they were reduced in bfloat16"
    )


@pytest.mark.grades("run.train", "process_group", "parallelize")
def test_dropout_differs_weights_agree(tmp_path):
    """Two ranks draw different dropout masks and end with equal weights."""
    first, second = run_ranks(2, "trials:dropout_on_this_rank", out=str(tmp_path))
    assert first["kept"] != second["kept"], "both ranks drop the same units: seed dropout by rank"
    assert first["sha"] == second["sha"], "the ranks' weights differ at the end"


@pytest.mark.grades(
    "run.train", "process_group", "gather_rng_states", "Trainer.state_dict", "Trainer.load_state_dict"
)
def test_exact_resume_two_ranks(tmp_path):
    """Stopped in mid-epoch and resumed on 2 ranks, with dropout: bitwise the weights of never stopping."""
    options = {"checkpoint_every": 4, "keep_checkpoints": 9, "steps": 14}
    whole, _ = run_ranks(2, "trials:train", out=str(tmp_path / "a"), **options)
    (tmp_path / "b/checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "a/checkpoints/step-00000004.pt", tmp_path / "b/checkpoints")
    first, second = run_ranks(2, "trials:train", out=str(tmp_path / "b"), resume=True, **options)
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["weights_sha256"] == whole["weights_sha256"], (
        "the resumed run differs: each rank needs its own RNG state, not that of rank 0"
    )
    lines = [
        json.loads(line) for line in (tmp_path / "b/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["step"] for line in lines if "loss" in line] == list(range(5, 15)), (
        "only rank 0 writes, once"
    )


@pytest.mark.grades("run.train", "process_group", "parallelize")
def test_two_ranks_do_what_one_does(tmp_path):
    """Without dropout, 2 ranks with DDP end where 1 process ends, up to rounding."""
    one = trials.train(tmp_path / "1", dropout=0.0, steps=12)
    two, _ = run_ranks(2, "trials:train", out=str(tmp_path / "2"), dropout=0.0, steps=12, accumulate=2)
    assert_close(
        two["val_bits_per_byte"], one["val_bits_per_byte"], rtol=1e-4, what="bits per byte of 2 ranks"
    )


@pytest.mark.grades("ShardedCheckpoint", "ShardedCheckpoint.load", "process_group")
def test_damaged_shard(tmp_path):
    """The index is whole, the numbers are cut off, changed in shape or gone: an error that names the folder, on every rank."""
    folder = tmp_path / "c"
    run_ranks(2, "trials:save_sharded", folder=str(folder))
    shutil.rmtree(folder / "step-00000002")
    for damage in ("cut", "gone"):
        for path in (folder / "step-00000003").glob("*.distcp"):
            path.write_bytes(path.read_bytes()[:40]) if damage == "cut" else path.unlink()
        for answers in run_ranks(2, "trials:load_sharded", folder=str(folder), indices=[], empty=str(folder)):
            answer = str(answers[0][0])
            assert answer.startswith("CheckpointError"), f"a shard that is {damage} gave {answer}"
            assert "step-00000003" in answer, f"which folder? {answer}"

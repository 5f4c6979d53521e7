"""The one step of run.py, on one process or many, and the state that it goes on from.

It is training_step of training_loop.py with what a long run needs besides: ranks that share the batch, averaged weights, a
count of the steps that were skipped, and one wait for the device instead of one per micro-batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from distributed import (
    World,
    full_tensor,
    gather_rng_states,
    gradient_sync,
    parallelize,
    plain_module,
    set_rng_state,
    sum_over_ranks,
)
from optimization import Ema, clip_gradients
from settings import Config
from text_data import IGNORED, Windows, micro_batches
from training_loop import PRECISIONS, parameter_groups, token_loss

__all__ = ["Progress", "Trainer", "evaluate", "weights_sha256"]

SMALLEST_SCALE = 1e-4  # of fp16; a gradient that is not finite at this scale is not so because of its size


@dataclass
class Progress:
    """How far a run is: with weights, optimizer and RNG states, all that resuming needs."""

    step: int = 0  # updates made; the schedule's argument
    epoch: int = 0
    position: int = 0  # windows of this epoch that are used up, over all ranks
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_a_row: int = 0  # without those that a smaller scale may mend
    train_loss: float = math.nan  # running average over about 20 steps, in nats per byte


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one call of `Trainer.step` did."""

    loss: float  # nats per valid token, over the whole batch
    gradient_norm: float  # before clipping
    lr: float
    n_tokens: int
    taken: bool  # False: the gradient was not finite, nothing was updated
    stop: bool  # some rank asked to stop


class Trainer:
    """A model, its optimizer, gradient scaler and averaged weights, and the one step that moves all of them.

    Attributes: `model` (wrapped for several ranks), `parameters` (the trainable ones), `optimizer` (AdamW with betas (0.9, 0.95)),
    `scaler` (a ``torch.amp.GradScaler``), `ema` (an `Ema`), `progress`, `config`, `world`.

    Parameters
    ----------
    model : nn.Module
        Maps tokens (B, T) int64 to logits (B, T, classes). Of any floating dtype, but float16 together with precision fp16:
        its gradients cannot be unscaled, ValueError.
    config : Config
        Its optimization and machine settings are used.
    world : World
        This process among its peers.
    """

    def __init__(self, model: nn.Module, config: Config, world: World | None = None) -> None:
        self.config, self.world, self.progress = config, world or World(), Progress()
        device = self.world.device
        if config.precision == "fp16" and any(p.dtype == torch.float16 for p in model.parameters()):
            raise ValueError("precision fp16 keeps its weights in float32 (or float64), got float16 weights")
        model = model.to(device)
        if config.compile:
            model.compile()
        self.model = parallelize(model, self.world, fsdp=config.fsdp, bf16=config.precision == "bf16")
        own = plain_module(self.model)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(own, config.weight_decay), lr=config.peak_lr, betas=(0.9, 0.95), fused=True
        )
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.ema = Ema(own, config.ema_decay)
        self._dtype = PRECISIONS[config.precision]

    def step(self, batches: Sequence[tuple[Tensor, Tensor]], *, stop: bool = False) -> StepReport:
        """Make one update from this rank's micro-batches, or skip it if the gradient is not finite.

        A skipped step is counted and leaves weights, optimizer, averages and schedule as they are; with fp16 the scaler
        halves its scale. As long as the loss is finite and the scale above 1e-4, that may be the remedy, and the step does not
        count in `progress.skipped_in_a_row`. Afterwards no gradient is left.

        Parameters
        ----------
        batches : sequence of (inputs, targets), each (B, T) int64
            Targets of -100 do not count. Every rank brings equally many micro-batches. An iterator will do.
        stop : bool
            Whether this rank was asked to stop; the report says whether any was, so that all stop at the same step.

        Raises
        ------
        ValueError
            If there is no valid target in the whole batch.
        """
        progress, batches = self.progress, list(batches)
        own = sum(int((targets != IGNORED).sum()) for _, targets in batches)
        n_tokens, n_stop = self._sum_integers(own, int(stop))
        if n_tokens == 0:
            raise ValueError("no valid target in the whole batch")
        lr = self.config.lr(progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        loss = self.forward_backward(batches, n_tokens)
        self.scaler.unscale_(self.optimizer)  # first: the limit is meant for true gradients
        norm = clip_gradients(self.parameters, self.config.clip)
        both = torch.stack([loss, norm.to(loss.dtype)])
        loss_value, norm_value = both.tolist()  # the one wait for the device
        taken = math.isfinite(norm_value)
        if taken:
            self.scaler.step(self.optimizer)
            self.ema.update()
            progress.step += 1
            first = math.isnan(progress.train_loss)
            progress.train_loss = loss_value if first else 0.95 * progress.train_loss + 0.05 * loss_value
        progress.skipped += not taken
        hopeless = not taken and not self._may_settle(loss_value)
        progress.skipped_in_a_row = 0 if taken else progress.skipped_in_a_row + hopeless
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepReport(loss_value, norm_value, lr, n_tokens, taken, bool(n_stop))

    def forward_backward(self, batches: Sequence[tuple[Tensor, Tensor]], n_tokens: int) -> Tensor:
        """Leave in ``.grad`` the gradient (with fp16: scaled) of the loss per token; return that loss, over all ranks.

        loss = Σ over ranks, micro-batches and valid tokens of -log p(target) / n_tokens

        Dividing each micro-batch by its own count instead would give tokens in short ones more weight.

        Parameters
        ----------
        batches : as for `step`
        n_tokens : int
            Valid targets in the whole batch, over all micro-batches and ranks.
        """
        device = self.world.device
        total = torch.zeros((), device=device)
        for number, (inputs, targets) in enumerate(batches, start=1):
            inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            with gradient_sync(self.model, enabled=number == len(batches)):
                with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
                    logits = self.model(inputs)
                loss = token_loss(logits, targets)
                # DDP and FSDP average over ranks; the sum is wanted
                self.scaler.scale(loss * (self.world.size / n_tokens)).backward()
            total = total + loss.detach()
        return sum_over_ranks(total) / n_tokens

    def _may_settle(self, loss: float) -> bool:
        """Return whether a smaller scale may mend a gradient that is not finite: not if the loss is not finite either."""
        return self.scaler.is_enabled() and math.isfinite(loss) and self.scaler.get_scale() > SMALLEST_SCALE

    def _sum_integers(self, *values: int) -> list[int]:
        """Return the sum of each value over the ranks."""
        if self.world.size == 1:
            return list(values)
        return [
            int(value) for value in sum_over_ranks(torch.tensor(values, device=self.world.device)).tolist()
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on: nested dicts of tensors, and nothing else. A collective.

        The tensors of model, optimizer and averages are the live ones, with FSDP this rank's slices of them. A parameter has
        the name that the model gives it.
        """
        model = plain_module(self.model)
        names = {id(p): name for name, p in model.named_parameters()}
        scaler = self.scaler.state_dict()  # empty where nothing is scaled
        numbers = [*asdict(self.progress).values(), self.ema.n_updates]
        numbers += [scaler.get("scale", 0.0), scaler.get("_growth_tracker", 0)]
        rng_states = gather_rng_states(self.world.device)
        return {
            "model": {name: p.detach() for name, p in (*model.named_parameters(), *model.named_buffers())},
            "optimizer": {names[id(p)]: self._moments(p) for p in self.parameters},
            "averages": self.ema.state_dict()["averages"],
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "rng": {str(rank): state for rank, state in enumerate(rng_states)},
        }

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return AdamW's state for a parameter; it makes it in the first step, and loading needs it before."""
        state = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=self.world.device)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, requires_grad=False)
        return dict(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, here or on another number of ranks; a new rank keeps its own RNG.

        The settings are those of this trainer. A state of a run without fp16 leaves the scaler as it is. ValueError, which
        says where, and nothing is changed, if names or shapes differ.
        """
        own = self.state_dict()
        _check_fits({**own, "rng": {}}, {**state, "rng": {}} if "rng" in state else state, "state")
        for part in ("model", "optimizer", "averages"):
            _copy_into(own[part], state[part])
        numbers = state["numbers"].tolist()
        for field, value in zip(fields(Progress), numbers, strict=False):
            setattr(self.progress, field.name, value if field.name == "train_loss" else int(value))
        n_updates, scale, growth_tracker = numbers[len(fields(Progress)) :]
        self.ema.n_updates = int(n_updates)
        if self.scaler.is_enabled() and scale > 0:
            found = {"scale": scale, "_growth_tracker": int(growth_tracker)}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **found})
        if (rank := str(self.world.rank)) in state["rng"]:
            set_rng_state(state["rng"][rank], self.world.device)


def _check_fits(own: Any, saved: Any, name: str) -> None:
    """Raise ValueError unless `saved` holds tensors of the same names and shapes as `own`."""
    if isinstance(own, Tensor):
        expected, found = tuple(own.shape), tuple(saved.shape) if isinstance(saved, Tensor) else type(saved)
        if found != expected:
            raise ValueError(f"{name}: expected a tensor of shape {expected}, got {found}")
        return
    if not isinstance(saved, Mapping):
        raise ValueError(f"{name}: expected a dict, got {type(saved)}")
    if other := own.keys() ^ saved.keys():
        raise ValueError(f"{name}: of another model, only one of the two has {', '.join(sorted(other))}")
    for key, value in own.items():
        _check_fits(value, saved[key], f"{name}.{key}")


@torch.no_grad()
def _copy_into(live: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Copy each tensor of `saved` into the one of that name."""
    for name, value in live.items():
        if isinstance(value, Tensor):
            value.copy_(saved[name])
        else:
            _copy_into(value, saved[name])


def evaluate(
    model: nn.Module,
    windows: Windows,
    *,
    batch_size: int,
    world: World | None = None,
    limit: int | None = None,
) -> float:
    """Return the bits per byte of `model` on `windows`, the same for every batch size and number of ranks.

    Σ -log2 p(target) / number of targets, each summed over all batches and ranks before dividing: batches have unequal
    numbers of targets, so an average of averages would be another number.

    Parameters
    ----------
    model : nn.Module
        Put into eval mode for the call; afterwards, also after an error, every submodule is in the mode it was in.
    windows : Windows
    batch_size : int
        Windows per forward pass and rank.
    world : World
        Each rank takes its share; every rank must call.
    limit : int, optional
        At most that many windows: numbers 0, k, 2k, … with ``k = len(windows) // limit``, or 1 if that is 0.

    Raises
    ------
    ValueError
        If there is no window, or `batch_size` or `limit` is below 1.
    """
    if not len(windows) or batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"nothing to evaluate: {len(windows)} windows, {batch_size=}, {limit=}")
    world = world or World()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    every = max(1, len(windows) // limit) if limit is not None else 1
    indices = torch.arange(0, len(windows), every)[:limit]
    total = torch.zeros(2, dtype=torch.float64, device=world.device)
    try:
        with torch.no_grad():
            for part in indices.split(batch_size * world.size):
                (own,) = micro_batches(
                    part, rank=world.rank, n_ranks=world.size, accumulate=1, batch_size=len(part) + world.size
                )
                inputs, targets = (t.to(world.device) for t in windows.batch(own))
                total[0] += token_loss(model(inputs), targets)
                total[1] += (targets != IGNORED).sum()
    finally:
        for module, mode in modes:
            module.training = mode
    nats, n_targets = sum_over_ranks(total).tolist()
    return float(nats / n_targets / math.log(2))


def weights_sha256(model: nn.Module) -> str:
    """Return a SHA-256 over names, dtypes, shapes and bytes of all parameters; with FSDP a collective.

    Wrapping in DDP or FSDP does not change it.
    """
    digest = hashlib.sha256()
    for name, parameter in plain_module(model).named_parameters():
        tensor = full_tensor(parameter.detach()).cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

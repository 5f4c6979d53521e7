"""What a run shows while it runs and leaves behind: progress bar, TensorBoard events, metrics.jsonl, a loss curve."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from checkpoint import replace_file

__all__ = ["Reporter"]


class Reporter:
    """Writes down every step and every evaluation of a run.

    ``metrics.jsonl`` gets one line of JSON per record: ``{"step", "loss", "lr", "gradient_norm", "tokens_per_second"}`` for an
    update, ``{"step", "skipped": true}`` for one that was skipped, ``{"step", "val_bits_per_byte"}`` for an evaluation. What a
    killed run wrote after its last checkpoint will happen again, so on resuming, lines beyond `first_step` are taken out.

    Parameters
    ----------
    folder : path
    first_step, total_steps : int
        Updates already made, and in the whole run.
    live : bool
        Also the progress bar (steps made, loss, rate, norm, speed), TensorBoard events in ``folder/tensorboard`` (of every
        25th update, and of evaluations with their sample), and at the end ``loss_curve.png``: both curves in bits.
    """

    def __init__(self, folder: Path, *, first_step: int, total_steps: int, live: bool = True) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        self.console = Console()
        self._live = live
        self._time = time.perf_counter()
        kept = [record for record in self.records() if record["step"] <= first_step]
        # renamed when whole: a crash in the middle would lose the history of the run
        replace_file(self.path, "".join(map(_line, kept)).encode())
        self._file = open(self.path, "a", encoding="utf-8")
        self._bar = Progress(
            *(TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20)),
            *(TextColumn("{task.description}"), TimeRemainingColumn(compact=True)),
            console=self.console,
            disable=not live or not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=first_step)
        self._shows_bar = not self._bar.disable
        self._events: Any = None
        if live:
            from torch.utils.tensorboard import SummaryWriter  # half a second to import

            # purge_step hides the events that a killed run wrote beyond its last checkpoint
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._bar.start()

    def records(self) -> list[dict[str, Any]]:
        """Return what metrics.jsonl holds. A last line that was cut off by a crash is left out.

        So are others that hold no record, and a line on the terminal says how many, and in which file.
        """
        if not self.path.exists():
            return []
        # what follows the last newline is cut off
        *lines, _ = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        records = [record for record in map(_read_line, lines) if record]
        if n_lost := len(lines) - len(records):
            self.console.print(f"{self.path}: left out {n_lost} lines that hold no record", style="yellow")
        return records

    def step(self, step: int, *, loss: float, lr: float, gradient_norm: float, n_tokens: int) -> None:
        """Record one update."""
        now = time.perf_counter()
        speed, self._time = n_tokens / (now - self._time), now
        values = {"loss": loss, "lr": lr, "gradient_norm": gradient_norm, "tokens_per_second": speed}
        self._record(step, **values, to_events=step % 25 == 0)  # an event costs as much as ten lines of JSON
        if self._shows_bar:
            shown = f"loss {loss:.3f}  lr {lr:.1e}  |g| {gradient_norm:.2f}  {speed:,.0f} tokens/s"
            self._bar.update(self._task, completed=step, description=shown)

    def skipped(self, step: int, *, loss: float) -> None:
        """Say that the gradient after `step` updates was not finite and no update was made."""
        self.console.print(f"step {step}: gradient not finite (loss {loss}), update skipped", style="yellow")
        self._write({"step": step, "skipped": True})
        self._time = time.perf_counter()

    def evaluation(self, step: int, *, val_bits_per_byte: float, sample: bytes) -> None:
        """Record an evaluation and a text sample."""
        text = sample.decode("utf-8", errors="replace")
        self._record(step, val_bits_per_byte=val_bits_per_byte)
        if self._live:
            self._events.add_text("sample", f"```\n{text}\n```", step)
            shown = "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
            self.console.rule(f"step {step}: {val_bits_per_byte:.3f} bits per byte", align="left")
            self.console.print(shown, markup=False, highlight=False, style="dim")
        self._time = time.perf_counter()  # an evaluation is not training time

    def close(self) -> None:
        """Finish the files; with `live`, draw the loss curve."""
        self._bar.stop()
        self._file.close()
        if self._live:
            self._events.close()
            self._draw()

    def _record(self, step: int, *, to_events: bool = True, **values: float) -> None:
        self._write({"step": step, **values})
        if self._events is not None and to_events:
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

            # one event for all values: add_scalar would make one for each
            summary = Summary(value=[Summary.Value(tag=n, simple_value=v) for n, v in values.items()])
            self._events.file_writer.add_summary(summary, step)

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(_line(record))
        self._file.flush()

    def _draw(self) -> None:
        """Write loss_curve.png: training loss and validation bits per byte on one axis, in bits."""
        import math

        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        records = self.records()
        train = [(r["step"], r["loss"] / math.log(2)) for r in records if "loss" in r]
        val = [(r["step"], r["val_bits_per_byte"]) for r in records if "val_bits_per_byte" in r]
        if not train:
            return
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(*zip(*train, strict=True), color="#56b4e9", linewidth=0.8, label="training, each step")
        if val:
            axes.plot(
                *zip(*val, strict=True), color="#d55e00", marker="o", label="validation, averaged weights"
            )
        axes.set(xlabel="step", ylabel="bits per byte", title=self.folder.name)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(self.folder / "loss_curve.png", dpi=120)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _read_line(line: str) -> dict[str, Any] | None:
    """Return the record of a line; None if it holds something else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None

"""What the launches of a `counting()` block asked of the memory system, per source line and in total."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = (
    "global load",
    "global store",
    "global atomic",
    "shared load",
    "shared store",
    "shared atomic",
    "branch",
)


@dataclass
class Row:
    """The counts of one kind of access on one source line (or, for a total, of many lines).

    Parameters
    ----------
    requests : instructions executed by warps; of a branch, how often a warp came to it
    lanes : instructions executed by threads: lanes / requests is how many of 32 lanes were active
    bytes : that the threads asked for
    units : 32-byte sectors (global memory), wavefronts (shared memory), or how often a warp diverged (branch)
    ideal_units : the fewest sectors or wavefronts that could carry the same bytes
    """

    file: str = ""
    line: int = 0
    kind: str = ""
    requests: int = 0
    lanes: int = 0
    bytes: int = 0
    units: int = 0
    ideal_units: int = 0

    @property
    def sectors(self) -> int:
        """32-byte sectors of global memory that the requests touch."""
        return self.units

    @property
    def ideal_sectors(self) -> int:
        """Sectors that the bytes would fill if they lay side by side."""
        return self.ideal_units

    @property
    def wavefronts(self) -> int:
        """Passes through shared memory that the requests take."""
        return self.units

    @property
    def bank_conflicts(self) -> int:
        """Passes through shared memory that would not be needed if every lane used another bank."""
        return self.units - self.ideal_units

    @property
    def divergent(self) -> int:
        """Times that lanes of one warp took different sides of the branch."""
        return self.units

    @property
    def bytes_moved(self) -> int:
        """Bytes that the touched sectors hold: what the memory system carries for the bytes asked for."""
        return 32 * self.units

    def add(self, other: Row) -> None:
        """Add another row's counts."""
        for name in ("requests", "lanes", "bytes", "units", "ideal_units"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Counters:
    """The counts of all launches of one `counting()` block."""

    rows: list[Row] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)

    def read(self, launches: Iterable[dict[str, Any]]) -> None:
        """Add the counts of launches, as the driver's JSON tells them."""
        merged = {(row.file, row.line, row.kind): row for row in self.rows}
        for launch in launches:
            self.kernels.append(launch["kernel"])
            for values in launch["rows"]:
                row = Row(*values)
                merged.setdefault((row.file, row.line, row.kind), Row(row.file, row.line, row.kind)).add(row)
        self.rows = sorted(merged.values(), key=lambda row: (row.file, row.line, KINDS.index(row.kind)))

    def total(self, kind: str) -> Row:
        """Return the sum over all lines of one kind: "global load", "shared store", "branch" ..."""
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        total = Row(kind=kind)
        for row in self.rows:
            if row.kind == kind:
                total.add(row)
        return total

    def line(self, number: int, kind: str) -> Row:
        """Return the counts of one kind on one line; zeros where there are none."""
        total = Row(line=number, kind=kind)
        for row in self.rows:
            if row.line == number and row.kind == kind:
                total.add(row)
        return total

    @property
    def global_bytes_read(self) -> int:
        """Bytes that threads read from global memory."""
        return self.total("global load").bytes

    @property
    def global_bytes_written(self) -> int:
        """Bytes that threads wrote to global memory."""
        return self.total("global store").bytes

    def annotate(self, path: Path) -> str:
        """Return the source with the counts beside the lines."""
        width = 46
        lines = []
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            rows = [row for row in self.rows if row.line == number and Path(row.file).name == path.name]
            for i, note in enumerate([describe(row) for row in rows] or [""]):
                lines.append(f"{note:<{width}} |{number:4} {text}" if i == 0 else f"{note:<{width}} |")
        return "\n".join(lines)

    def summary(self) -> str:
        """Return the totals in a few lines."""
        lines = []
        for kind in KINDS:
            total = self.total(kind)
            if total.requests:
                lines.append(f"{kind:<14} {describe(total, name=False)}")
        read, written = self.total("global load"), self.total("global store")
        lines.append(f"global bytes   read {read.bytes:,} (moved {read.bytes_moved:,}), "
                     f"written {written.bytes:,} (moved {written.bytes_moved:,})")  # fmt: skip
        return "\n".join(lines)


def describe(row: Row, *, name: bool = True) -> str:
    """Return the counts of one row in words that fit beside a source line."""
    short = row.kind.replace("global", "glb").replace("shared", "shr") + " " if name else ""
    if row.kind == "branch":
        return f"{short}{row.requests} x, {row.divergent} divergent"
    unit = "sectors" if row.kind.startswith("global") else "waves"
    lanes = row.lanes / row.requests
    active = "" if lanes == 32 else f" {lanes:.0f} lanes"
    per = row.units / row.requests
    return f"{short}{row.requests} x{active} {per:.4g} {unit} ({row.ideal_units / row.requests:.4g} ideal)"

"""What the tour shows of committed results: tables beside the peers, the headline of a project, the points of the roofline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.measuring.readme import read_demo
from shared.projects import Project

Row = Mapping[str, Any]

# Peaks that NVIDIA publishes for float32 without tensor cores, and memory bandwidth: (FLOP/s, bytes/s).
DATASHEETS = {
    "A100 80 GB SXM": (19.5e12, 2.039e12),
    "H100 SXM": (67e12, 3.35e12),
    "H200": (67e12, 4.8e12),
    "L4": (30.3e12, 0.3e12),
}


@dataclass(frozen=True)
class Cell:
    """One cell of a table, and whether it meets its target (``met``, ``below``, or nothing)."""

    text: str
    verdict: str = ""


@dataclass(frozen=True)
class Measured:
    """One table of a result file."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def has_target(self) -> bool:
        """Whether one of its numbers is held against a target."""
        return any(cell.verdict for row in self.rows for cell in row)


def read_results(project: Project) -> list[dict[str, Any]]:
    """Return what is committed of a project's benchmark, one entry per device."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in project.results]


def tables(result: Row) -> tuple[list[Measured], list[Measured]]:
    """Return one table per group of rows, those with a target first of all, then the rest.

    Without any target the first table counts as one to show.
    """
    groups: dict[str, list[Row]] = {}
    for row in result["rows"]:
        groups.setdefault(row["group"], []).append(row)
    made = [(_recorded if "columns" in rows[0] else _timed)(group, rows) for group, rows in groups.items()]
    shown = [table for table in made if table.has_target] or made[:1]
    return shown, [table for table in made if table not in shown]


def _recorded(group: str, rows: Sequence[Row]) -> Measured:
    columns = list(dict.fromkeys(name for row in rows for name in row["columns"]))
    cells = [[Cell(row["case"]), *(Cell(row["columns"].get(name, "")) for name in columns)] for row in rows]
    return Measured(group, ["case", *columns], cells)


def _timed(group: str, rows: Sequence[Row]) -> Measured:
    peers = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    (ours,) = {row.get("name", "ours") for row in rows}  # what the benchmark calls its own
    lines = []
    for row in rows:
        case = f"{row['case']} ({row['note']})" if row["note"] else row["case"]
        ratios = [_ratio(row, peer) if peer in row["ratios"] else Cell("") for peer in peers]
        time_ms = row["milliseconds"]["ours"]
        lines.append([Cell(case), Cell(f"{time_ms:,.0f}" if time_ms >= 1000 else f"{time_ms:.3g}"), *ratios])
    return Measured(group, ["case", f"{ours}, ms", *(f"{peer} / {ours}" for peer in peers)], lines)


def _ratio(row: Row, peer: str) -> Cell:
    median, target = row["ratios"][peer]["median"], row["targets"].get(peer)
    if target is None:
        return Cell(f"{median:.2f}")
    return Cell(f"{median:.2f}, target {target:.3g}", "met" if median >= target else "below")


@dataclass(frozen=True)
class Headline:
    """How a project fares beside what one would use at work: above 1 time as fast, ours is faster."""

    times: str
    target: str  # "" where there is none
    verdict: str
    peer: str
    case: str


def headline(results: Sequence[Row], wanted: Sequence[str]) -> Headline | None:
    """Return the row that is a project's headline (its group, case and peer), None where nothing of it was measured."""
    for result in results:
        for row in result["rows"]:
            if "ratios" in row and [row["group"], row["case"]] == list(wanted[:2]):
                peer = wanted[2]
                target = f"{row['targets'][peer]:.3g}" if peer in row["targets"] else ""
                verdict = _ratio(row, peer).verdict
                case = f"{row['group']}: {row['case']}"
                return Headline(f"{row['ratios'][peer]['median']:.2f}", target, verdict, peer, case)
    return None


def roofline(project: Project, demo: Row) -> dict[str, Any]:
    """Return what the interactive roofline draws: counted FLOP per byte by kernel, and the roofs.

    A kernel's FLOP per byte does not depend on the size: its loads move a number of bytes that grows with n³. The demo
    counts them on the emulator. The first roof is a measured one, with speeds, where a GPU's result is committed.
    """
    numbers = demo["numbers"] or read_demo(project.folder)["numbers"]
    prefix = "intensity_"
    kernels = [
        {"name": key.removeprefix(prefix), "intensity": number["value"]}
        for key, number in numbers.items()
        if key.startswith(prefix)
    ]
    sheets = [
        {"name": name, "flops": flops, "bytes": n_bytes, "source": "NVIDIA's datasheet, not measured"}
        for name, (flops, n_bytes) in DATASHEETS.items()
    ]
    measured = [roof for result in read_results(project) if (roof := _measured_roof(result))]
    return {"size": 128, "kernels": kernels, "gpus": [*measured, *sheets]}


def _measured_roof(result: Row, size: int = 4096) -> dict[str, Any] | None:
    ceilings = {row["case"]: row["columns"] for row in result["rows"] if row["group"] == "ceilings"}
    if not ceilings:
        return None
    group = f"float32, {size} x {size} x {size}"
    timed = [row for row in result["rows"] if row["group"] == group]
    return {
        "name": result["provenance"]["device"],
        "flops": float(ceilings["float32 arithmetic"]["TFLOP/s"]) * 1e12,
        "bytes": float(ceilings["copy"]["GB/s"].replace(",", "")) * 1e9,
        "source": "measured",
        "size": size,
        "speeds": {row["case"]: 2 * size**3 / row["milliseconds"]["ours"] * 1e3 for row in timed},
    }

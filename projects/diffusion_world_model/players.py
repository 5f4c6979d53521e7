"""The result of an evaluation: who plays how well in the real game. A file, a table, a figure."""

import csv
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from rich.table import Table

__all__ = ["AGENT", "load_result", "picture", "save_result", "table"]

AGENT = "agent trained in the dream"
Rows = dict[str, list[dict[str, float]]]


def load_result(path: Path) -> Rows:
    """Return the rows of a committed result by what stands in the first column."""
    named: Rows = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            (_, name), *numbers = row.items()
            named.setdefault(name, []).append({key: float(value) for key, value in numbers})
    return named


def save_result(rows: list[dict[str, object]], path: Path) -> None:
    """Write rows as a table of comma-separated values."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def picture(players: Rows, known: dict[str, float], target: float) -> Figure:
    """Draw all players on one axis: a dot per seed, a line per rule, a green one at the target."""
    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for i, (name, rows) in enumerate(players.items()):
        colour = "#0072b2" if name == AGENT else "#d55e00"
        axis.plot(
            [row["return"] for row in rows], [-i] * len(rows), "o", color=colour, markersize=8, alpha=0.75
        )
    for name, value in known.items():
        axis.axvline(value, color="#7f7f7f", linewidth=1, linestyle="--")
        axis.text(value, 0.75, name, color="#555555", ha="center", va="bottom", fontsize=9)
    axis.axvline(target, color="#009e73", linewidth=1)
    axis.set(xlabel="mean return of 1,000 real games", xlim=(-1.05, 1.08), ylim=(0.6 - len(players), 0.7))
    axis.set_yticks([-i for i in range(len(players))], list(players))
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    return figure


def table(players: Rows, known: dict[str, float]) -> Table:
    """Return a row per player, a column per seed."""
    seeds = (f"seed {row['seed']:.0f}" for row in next(iter(players.values())))
    shown = Table("player", "real steps", "CPU seconds", *seeds)
    for name, value in known.items():
        shown.add_row(name, "0", "0", f"{value:.2f}")
    for name, rows in players.items():
        seconds = f"{statistics.median(row['cpu_seconds'] for row in rows):.0f}"
        shown.add_row(
            name, f"{rows[0]['real_steps']:,.0f}", seconds, *(f"{row['return']:.2f}" for row in rows)
        )
    return shown

"""What a demo produces: figures, tables and numbers, on the terminal and in build/ for the tour and the README."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from shared.measuring.panels import panels
from shared.measuring.readme import fill_measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Demo:
    """Collects what one demo.py shows.

    ``build/demo.json`` and ``build/<figure>.svg`` are written each time; ``python demo.py --save`` also copies them to
    results/, from where the README, MEASURED.md and the drills take every number they quote.
    """

    def __init__(self, file: str) -> None:
        parser = argparse.ArgumentParser(description=f"Demo of {Path(file).resolve().parent.name}.")
        parser.add_argument(
            "--save", action="store_true", help="copy numbers and figures to results/ (committed)"
        )
        self._save = parser.parse_args().save
        self._folder = Path(file).resolve().parent
        self._build = self._folder / "build"
        self._build.mkdir(exist_ok=True)
        self._content: dict[str, Any] = {"numbers": {}, "tables": {}, "figures": {}}
        self.console = Console()

    @property
    def build(self) -> Path:
        """The folder for whatever else a demo wants to write; ignored by git."""
        return self._build

    def number(self, key: str, value: float, fmt: str, label: str) -> None:
        """Print ``label: value`` and keep it; drills quote it as ``{key}``. `fmt` is a format specification."""
        text = format(value, fmt)
        self._content["numbers"][key] = {"value": float(value), "text": text, "label": label}
        self.console.print(f"{escape(label)}: [bold]{escape(text)}[/]", highlight=False)

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str | None = None
    ) -> None:
        """Print a table and keep it; the README shows it in its ``generated:demo:key`` block."""
        cells = [[str(cell) for cell in row] for row in rows]
        self._content["tables"][key] = {"columns": list(columns), "rows": cells, "caption": caption}
        table = Table(*columns, title=caption, title_justify="left")
        for row in cells:
            table.add_row(*row)
        self.console.print(table)

    def figure(self, key: str, figure: Figure, *, alt: str, caption: str) -> None:
        """Write a figure as SVG (tour, README) and PNG (to look at); `alt` says in words what it shows."""
        import matplotlib

        with matplotlib.rc_context(
            {"svg.hashsalt": key, "svg.fonttype": "path"}
        ):  # the same bytes on every run
            figure.savefig(
                self._build / f"{key}.svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
            )
        figure.savefig(self._build / f"{key}.png", dpi=110, bbox_inches="tight")
        self._content["figures"][key] = {"alt": alt, "caption": caption, "panels": panels(figure)}
        self.console.print(
            f"figure: {(self._build / key).relative_to(self._folder)}.svg  [dim]{escape(caption)}[/]"
        )

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a progress bar; call the yielded function once per step. Silent where the output is no terminal."""
        with Progress(console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task)

    def finish(self) -> None:
        """Write build/demo.json, and with ``--save`` the committed copies and MEASURED.md."""
        text = json.dumps(self._content, indent=1, ensure_ascii=False) + "\n"
        (self._build / "demo.json").write_text(text, encoding="utf-8")
        if not self._save:
            return
        results = self._folder / "results"
        results.mkdir(exist_ok=True)
        (results / "demo.json").write_text(text, encoding="utf-8")
        for old in results.glob("*.svg"):
            old.unlink()
        for key in self._content["figures"]:
            shutil.copy(self._build / f"{key}.svg", results / f"{key}.svg")
        fill_measured(self._folder / "MEASURED.md")

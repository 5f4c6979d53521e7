"""A learner's folder: her files, how they were graded, and how long she worked. Nothing here ever loses her code."""

from __future__ import annotations

import hashlib
import math
import os
import time
from pathlib import Path
from typing import Any

from fsrs import Rating
from rich.console import Console

from shared.practice.json_file import read_rows, timestamp, write_rows
from shared.practice.schedule import Schedule
from shared.projects import Project
from shared.testing.blank import blank

PAUSE_S = 15 * 60  # between two gradings, no more than this counts as work
Entry = dict[str, Any]


class Learner:
    """The folder practice/, and .progress.json in it: an entry per deliverable, ``activations`` or ``debug:activations``.

    An entry holds ``marks`` and ``hints`` by unit, ``digest`` (the files as they were graded last), ``attempt`` (seconds
    worked so far, whether she gave up), ``times`` (last and best), and ``seen``, when the project was last at hand.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._path = folder / ".progress.json"
        self.progress = self._load()

    def _load(self) -> dict[str, Entry]:
        return read_rows(self._path, _read_entry, self.console.print)

    def entry(self, key: str) -> Entry:
        """Return what is remembered of one deliverable."""
        return self.progress.get(key, {})

    def recall(self, key: str, what: str) -> dict[str, Any]:
        """Return one part of an entry, empty when there is none."""
        return dict(self.entry(key).get(what, {}))

    def remember(self, key: str, **changes: Any) -> None:
        """Update one entry. The file is read again first: another terminal may have written since."""
        self.progress = self._load()
        self.progress.setdefault(key, {}).update(changes)
        write_rows(self._path, self.progress)

    # --- the clock ---------------------------------------------------------------------------------------------

    def start(self, key: str) -> None:
        """Start the clock of one deliverable: the learner has it in front of her."""
        self.remember(key, attempt={"seconds": 0.0, "gave_up": 0.0}, seen=time.time())

    def tick(self, key: str) -> None:
        """Count the time since anything was last graded, a long pause as PAUSE_S seconds."""
        now = time.time()
        if attempt := self.recall(key, "attempt"):
            worked = now - max((entry.get("seen", 0.0) for entry in self._load().values()), default=now)
            attempt["seconds"] += min(max(worked, 0.0), PAUSE_S)
            self.remember(key, attempt=attempt)
        self.remember(key, seen=now)

    def give_up(self, key: str) -> None:
        """Note that the solution was shown: this attempt sets no time."""
        if attempt := self.recall(key, "attempt"):
            self.remember(key, attempt={**attempt, "gave_up": 1.0})

    def finish(self, key: str, card: str) -> float | None:
        """Stop the clock and return its seconds; None where it did not run: it passed before.

        The deliverable comes back on the schedule, as `card`.
        """
        attempt = self.recall(key, "attempt")
        if not attempt:
            return None
        seconds, gave_up = float(attempt["seconds"]), bool(attempt.get("gave_up"))
        times = self.recall(key, "times")
        if not gave_up:
            times = {"last": seconds, "best": min(seconds, times.get("best", seconds))}
        self.remember(key, attempt={}, times=times)
        rating = Rating.Again if gave_up else Rating.Good
        Schedule(self.folder, self.console.print).review(card, rating)
        return seconds

    # --- her files ---------------------------------------------------------------------------------------------

    def files(self, project: Project) -> list[Path]:
        """Return the learner's files: those of the core, there or not, and the further ones that she has."""
        folder = self.folder / project.name
        further = [folder / source for source in project.further_sources]
        return [
            *(folder / source for source in project.core_sources),
            *(path for path in further if path.exists()),
        ]

    def write_blanks(self, project: Project, *, further: bool = False) -> list[Path]:
        """Write the blank of each file that the learner does not have yet; never touch an existing one."""
        written = []
        for source in project.sources if further else project.core_sources:
            path = self.folder / project.name / source
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(blank(project, source))
            written.append(path)
        if {self.folder / project.name / source for source in project.core_sources} <= set(written):
            self.start(project.name)
        return written

    def reset(self, project: Project, *, further: bool = False) -> list[Path]:
        """Move the learner's files to backups/ and write blanks; return the backups."""
        files = [path for path in self.files(project) if path.exists()]
        further = further or any((self.folder / project.name / s).exists() for s in project.further_sources)
        backups = [move_to_backups(path, self.folder / project.name / "backups") for path in files]
        self.write_blanks(project, further=further)
        self.remember(project.name, marks={}, hints={}, digest="")
        self.start(project.name)
        return backups


def move_to_backups(path: Path, backups: Path) -> Path:
    """Move a file into `backups` under a name of its own; return where it is."""
    backups.mkdir(exist_ok=True)
    backup = backups / f"{path.stem}-{timestamp()}{path.suffix}"
    os.replace(path, backup)
    return backup


def digest(files: list[Path]) -> str:
    """Fingerprint files, to see whether they changed since they were graded."""
    content = b"".join(path.name.encode() + b"\0" + path.read_bytes() for path in files if path.exists())
    return hashlib.sha256(content).hexdigest()


def minutes(seconds: float) -> str:
    """Return a time as ``m:ss``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _read_entry(entry: Any) -> Entry:
    """Return an entry with the fields that can be read: the file may have been edited by hand, or be an older one's.

    Raises
    ------
    TypeError
        It is no mapping.
    """
    if not isinstance(entry, dict):
        raise TypeError(f"an entry is a mapping, not {entry!r}")
    kinds: dict[str, type] = {"marks": str, "hints": int, "times": float, "attempt": float}
    kept = {key: value for key, value in entry.items() if key not in kinds}
    for what, kind in kinds.items():
        values = entry.get(what)
        if isinstance(values, dict):
            kept[what] = {name: value for name, value in values.items() if _is(value, kind)}
    if "marks" in kept:  # "passing" is what earlier versions wrote
        kept["marks"] = {unit: "core" if mark == "passing" else mark for unit, mark in kept["marks"].items()}
    for what, needed in (("times", {"last", "best"}), ("attempt", {"seconds"})):
        if not needed <= kept.get(what, {}).keys():
            kept.pop(what, None)
    if not _is(kept.get("seen", 0.0), float):
        kept.pop("seen")
    return kept


def _is(value: Any, kind: type) -> bool:
    if kind is not float:
        return isinstance(value, kind)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

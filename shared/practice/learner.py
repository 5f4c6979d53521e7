"""A learner's folder: her files, and what is remembered about them; nothing here ever loses her code."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from fsrs import Rating
from rich.console import Console

from shared.testing.blank import blank
from shared.projects import Project
from shared.practice.schedule import WRITE, Reviews
from shared.practice.json_file import read_state, timestamp, write_state

PAUSE_S = 15 * 60  # between two gradings, no more than this counts as work


class Practice:
    """The learner's folder: her files, and what is remembered about them in .progress.json."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._state = folder / ".progress.json"
        self.progress = self._load()

    def _load(self) -> dict[str, Any]:
        """Read the progress; a damaged file is set aside."""
        progress = read_state(self._state, _is_progress, self.console.print)
        return {} if progress is None else {name: _readable(entry) for name, entry in progress.items()}

    def remember(self, project: Project, **changes: Any) -> None:
        """Update one project's entry; the file is replaced in one step, so that a crash leaves the old or the new.

        It is read again first: another terminal may have written since.
        """
        self.progress = self._load()
        self.progress.setdefault(project.name, {}).update(changes)
        write_state(self._state, self.progress)

    def start_attempt(self, project: Project) -> None:
        """Start the clock of one deliverable: the learner has blanks in front of her."""
        self.remember(project, attempt={"seconds": 0.0, "since": time.time(), "gave_up": 0.0})

    def finish_attempt(self, project: Project) -> None:
        """Stop the clock: everything passes. The deliverable comes back to be written again, on the drills' schedule."""
        attempt = self.recall(project, "attempt")
        if not attempt:
            return  # it passed before: an edit since then is no new attempt
        seconds, gave_up = attempt["seconds"], bool(attempt.get("gave_up"))
        times = self.recall(project, "times")
        if not gave_up:
            times = {"last": seconds, "best": min(seconds, times.get("best", seconds))}
        self.remember(project, attempt={}, times=times)
        rating = Rating.Again if gave_up else Rating.Good
        Reviews(self.folder / "drills.json", self.console.print).review(f"{WRITE}{project.name}", rating)

    def tick(self, project: Project) -> None:
        """Count the time since the last grading, a long pause as PAUSE_S seconds."""
        attempt = self.recall(project, "attempt")
        if attempt:
            worked = min(time.time() - attempt["since"], PAUSE_S)
            moved = {"seconds": attempt["seconds"] + max(worked, 0.0), "since": time.time()}
            self.remember(project, attempt={**attempt, **moved})

    def recall(self, project: Project, what: str) -> dict[str, Any]:
        """Return what is remembered under `what` for a project, empty when that is nothing (or not a mapping)."""
        value = self.progress.get(project.name, {}).get(what)
        return value if isinstance(value, dict) else {}

    def files(self, project: Project) -> list[Path]:
        """Return where the learner's modules and kernels of a project are, or would be."""
        return [self.folder / project.name / source for source in project.sources]

    def write_blanks(self, project: Project) -> list[Path]:
        """Write the blank for each file that the learner does not have yet; never touch an existing one."""
        written = []
        for source, path in zip(project.sources, self.files(project), strict=True):
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(blank(project.folder / source))
            written.append(path)
        if len(written) == len(project.sources):
            self.start_attempt(project)
        return written

    def reset(self, project: Project) -> list[Path]:
        """Move the learner's files to backups/ and write blanks; return the backups."""
        backups = []
        for path in self.files(project):
            if path.exists():
                backup = path.parent / "backups" / f"{path.stem}-{timestamp()}{path.suffix}"
                backup.parent.mkdir(exist_ok=True)
                os.replace(path, backup)
                backups.append(backup)
        self.write_blanks(project)
        self.remember(project, marks={}, hints={}, digest="")
        self.start_attempt(project)
        return backups

    def digest(self, project: Project) -> str:
        """Fingerprint the learner's files, to see whether they changed since they were graded."""
        content = b"".join(path.read_bytes() for path in self.files(project) if path.exists())
        return hashlib.sha256(content).hexdigest()


def _is_progress(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(entry, dict) for entry in state.values())


def _readable(entry: dict[str, Any]) -> dict[str, Any]:
    """Keep of one project's entry what has the right type; the file may have been edited by hand."""
    kinds: dict[str, type] = {"marks": str, "hints": int, "times": float, "attempt": float}
    kept = dict(entry)
    for what in kinds.keys() & entry.keys():
        values = entry[what] if isinstance(entry[what], dict) else {}
        kept[what] = {unit: value for unit, value in values.items() if isinstance(value, kinds[what])}
    return kept

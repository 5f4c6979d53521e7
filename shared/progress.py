"""A learner's folder: her files, and what is remembered about them; nothing here ever loses her code."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from shared.blank import blank
from shared.projects import Project


class Practice:
    """The learner's folder: her files, and what is remembered about them in .progress.json."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._state = folder / ".progress.json"
        self.progress = self._load()

    def _load(self) -> dict[str, Any]:
        """Read the progress; set a corrupt file aside, say so, and start afresh."""
        try:
            progress = json.loads(self._state.read_text(encoding="utf-8"))
            if isinstance(progress, dict) and all(isinstance(entry, dict) for entry in progress.values()):
                return {name: _readable(entry) for name, entry in progress.items()}
        except FileNotFoundError:
            return {}
        except ValueError:  # not JSON, or not UTF-8
            pass
        aside = self._state.with_name(f".progress.corrupt-{timestamp()}.json")
        os.replace(self._state, aside)
        self.console.print(
            f"The progress file was damaged. It is kept as {aside}; your answers are untouched."
        )
        return {}

    def remember(self, project: Project, **changes: Any) -> None:
        """Update one project's entry; the file is replaced in one step, so that a crash leaves the old or the new.

        It is read again first: another terminal may have written since.
        """
        self.progress = self._load()
        self.progress.setdefault(project.name, {}).update(changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False, encoding="utf-8") as file:
            json.dump(self.progress, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self._state)

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
        return backups

    def digest(self, project: Project) -> str:
        """Fingerprint the learner's files, to see whether they changed since they were graded."""
        content = b"".join(path.read_bytes() for path in self.files(project) if path.exists())
        return hashlib.sha256(content).hexdigest()


def _readable(entry: dict[str, Any]) -> dict[str, Any]:
    """Keep of one project's entry what has the right type; the file may have been edited by hand."""
    kinds: dict[str, type] = {"marks": str, "hints": int}
    kept = dict(entry)
    for what, kind in kinds.items():
        values = entry.get(what)
        values = values if isinstance(values, dict) else {}
        kept[what] = {unit: value for unit, value in values.items() if isinstance(value, kind)}
    return kept


def timestamp() -> str:
    """Return the local time as a part of a file name."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")

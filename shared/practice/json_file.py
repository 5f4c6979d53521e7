"""JSON files that remember something about a learner: a crash leaves the old or the new one, a damaged one is kept."""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

Rows = dict[str, Any]


def read_rows(
    path: Path, read_row: Callable[[Any], Any], say: Callable[[str], object], *, inside: str = ""
) -> Rows:
    """Read a JSON object row by row (the one at the key `inside`, if that is given); none if there is no file.

    `read_row` returns what to keep of one value, or raises. A file that is no object is set aside; a damaged row costs that
    row, and a copy of the file as it was stays beside it. Both are said.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        state = state[inside] if inside and isinstance(state, dict) and inside in state else state
        if not isinstance(state, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return {}
    except ValueError:  # not JSON, or not UTF-8
        aside = _aside(path)
        os.replace(path, aside)
        say(f"{path.name} was damaged. It is kept as {aside}; your answers are untouched.")
        return {}
    rows, damaged = {}, []
    for key, value in state.items():
        try:
            rows[key] = read_row(value)
        except Exception:  # whatever a damaged value makes its reader raise
            damaged.append(key)
    if damaged:
        aside = _aside(path)
        aside.write_bytes(path.read_bytes())
        write_rows(path, {key: state[key] for key in rows}, inside=inside)
        say(f"{path.name}: {', '.join(damaged)} was damaged and is left out. The file as it was: {aside}")
    return rows


def write_rows(path: Path, rows: Rows, *, inside: str = "") -> None:
    """Replace a JSON file in one step, so that a crash leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump({inside: rows} if inside else rows, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.corrupt-{timestamp()}{path.suffix}")


def timestamp() -> str:
    """Return the local time as a part of a file name."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command line and end: a file that cannot be read or written is one line, and so is Ctrl-C."""
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as problem:  # a folder that cannot be written, a file of another user
        raise SystemExit(f"{Path(sys.argv[0]).parent.name}: {problem}") from None

"""JSON files that remember something about a learner: a crash leaves the old or the new one, a damaged one is kept."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_state(path: Path, is_valid: Callable[[Any], bool], say: Callable[[str], object]) -> Any | None:
    """Read a JSON file; None if there is none. A file that is damaged or not valid is set aside, and said so."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if is_valid(state):
            return state
    except FileNotFoundError:
        return None
    except ValueError:  # not JSON, or not UTF-8
        pass
    aside = path.with_name(f"{path.stem}.corrupt-{timestamp()}{path.suffix}")
    os.replace(path, aside)
    say(f"{path.name} was damaged. It is kept as {aside}; your answers are untouched.")
    return None


def write_state(path: Path, state: Any) -> None:
    """Replace a JSON file in one step, so that a crash leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def timestamp() -> str:
    """Return the local time as a part of a file name."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")

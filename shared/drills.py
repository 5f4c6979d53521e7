"""The "explain in under 30 seconds" drills: data in each project's drills.toml, numbers from its demo."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path

from shared.projects import read_toml

MOST_WORDS = 75


@dataclass(frozen=True)
class Drill:
    """One question with a spoken answer and the experiment that proves it."""

    id: str
    question: str
    topic: str
    answer: str
    evidence: str  # a command, or a test id


def load_drills(folder: Path) -> list[Drill]:
    """Read a project's drills, with each ``{number}`` in an answer filled from results/demo.json.

    Raises
    ------
    ValueError
        If an answer quotes a number that the demo did not measure, or is longer than 75 words.
    """
    committed = folder / "results" / "demo.json"
    measured = json.loads(committed.read_text(encoding="utf-8"))["numbers"] if committed.exists() else {}
    texts = {key: number["text"] for key, number in measured.items()}
    drills = []
    for data in read_toml(folder / "drills.toml").get("drill", []):
        missing = {name for _, name, _, _ in string.Formatter().parse(data["answer"]) if name} - set(texts)
        if missing:
            raise ValueError(
                f"{folder.name}: drill {data['id']} quotes {sorted(missing)}, not in results/demo.json"
            )
        drill = Drill(**{**data, "answer": " ".join(data["answer"].format(**texts).split())})
        if len(drill.answer.split()) > MOST_WORDS:
            raise ValueError(f"{folder.name}: the answer of {drill.id} has more than {MOST_WORDS} words")
        drills.append(drill)
    return drills

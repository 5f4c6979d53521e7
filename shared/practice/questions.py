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
    evidence: str  # the command or the test, in the project's folder, that proves it
    figure: str = ""  # a figure of results/ that shows it
    follow_ups: tuple[str, ...] = ()  # what an interviewer asks next
    red_flag: str = ""  # the sentence that ends an interview

    @property
    def command(self) -> str:
        """What to type in the project's folder."""
        return self.evidence if self.evidence.startswith("python ") else f"pytest {self.evidence}"


def load_drills(folder: Path) -> list[Drill]:
    """Read a project's drills, with each ``{number}`` in an answer filled from results/demo.json.

    Raises
    ------
    ValueError
        If an answer quotes a number that the demo did not measure, quotes none and has no figure, or is longer than 75
        words.
    """
    committed = folder / "results" / "demo.json"
    measured = json.loads(committed.read_text(encoding="utf-8"))["numbers"] if committed.exists() else {}
    texts = {key: number["text"] for key, number in measured.items()}
    drills = []
    for data in read_toml(folder / "drills.toml").get("drill", []):
        quoted = {name for _, name, _, _ in string.Formatter().parse(data["answer"]) if name}
        if missing := quoted - set(texts):
            raise ValueError(
                f"{folder.name}: drill {data['id']} quotes {sorted(missing)}, not in results/demo.json"
            )
        answer, follow_ups = (
            " ".join(data["answer"].format(**texts).split()),
            tuple(data.get("follow_ups", ())),
        )
        drill = Drill(**{**data, "answer": answer, "follow_ups": follow_ups})
        if not quoted and not (folder / "results" / f"{drill.figure}.svg").exists():
            raise ValueError(
                f"{folder.name}: the answer of {drill.id} has neither a measured number nor a figure"
            )
        if len(drill.answer.split()) > MOST_WORDS:
            raise ValueError(f"{folder.name}: the answer of {drill.id} has more than {MOST_WORDS} words")
        drills.append(drill)
    return drills

"""The "explain in under 30 seconds" drills: data in each project's drills.toml, numbers from its demo.

``python -m shared.practice.questions`` lists every card that breaks a rule.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.projects import load_projects, read_toml

MOST_WORDS, MOST_FOLLOW_UP_WORDS = (
    75,
    30,
)  # as they are spoken: at 150 words a minute, thirty seconds and twelve
FOLLOW_UPS = 2
NEEDED = ("id", "question", "topic", "answer", "evidence", "red_flag", "follow_up")
OPTIONAL = ("figure",)


@dataclass(frozen=True)
class FollowUp:
    """What an interviewer asks next, with a short answer."""

    question: str
    answer: str

    @property
    def is_derived(self) -> bool:
        """Whether the answer is a number or a derivation: a digit, an equation or a product is in it."""
        return re.search(r"[\d=≈√×·²³]", self.answer) is not None


@dataclass(frozen=True)
class Drill:
    """One question with a spoken answer and the experiment that proves it."""

    project: str
    id: str
    question: str
    topic: str
    answer: str
    evidence: str  # the script ("python demo.py") or the test, in the project's folder, that proves it
    red_flag: str  # the sentence that ends an interview
    follow_ups: tuple[FollowUp, ...]
    figure: str = ""  # a figure of results/ that shows it

    @property
    def key(self) -> str:
        """Its name in a learner's history."""
        return f"{self.project}/{self.id}"

    @property
    def proof(self) -> str:
        """What to type at the root of the repository to see the evidence."""
        return f"nox -s {self.project} -- {self.evidence}"


def load_drills(folder: Path) -> list[Drill]:
    """Read a project's drills, with each ``{number}`` in an answer filled from results/demo.json.

    Raises
    ------
    ValueError
        If a card is not complete, or quotes a number that the demo did not measure. How long its answers are is a
        matter for `problems`.
    """
    texts = measured_texts(folder)
    return [_read(folder, data, texts) for data in read_toml(folder / "drills.toml").get("drill", [])]


def measured_texts(folder: Path) -> dict[str, str]:
    """Return the numbers that a project's demo measured, as they are printed."""
    committed = folder / "results" / "demo.json"
    measured = json.loads(committed.read_text(encoding="utf-8"))["numbers"] if committed.exists() else {}
    return {key: number["text"] for key, number in measured.items()}


def _read(folder: Path, data: Mapping[str, Any], texts: Mapping[str, str]) -> Drill:
    name = f"{folder.name}: drill {data.get('id', '(without id)')}"
    if missing := [key for key in NEEDED if not data.get(key)]:
        raise ValueError(f"{name} has no {', '.join(missing)}")
    if unknown := [key for key in data if key not in (*NEEDED, *OPTIONAL)]:
        raise ValueError(f"{name} has {', '.join(unknown)}, which no card has")
    asked = data["follow_up"]
    if not isinstance(asked, list) or [row.keys() for row in asked] != [{"question", "answer"}] * FOLLOW_UPS:
        raise ValueError(f"{name} needs {FOLLOW_UPS} [[drill.follow_up]], each with a question and an answer")
    follow_ups = tuple(FollowUp(row["question"], _fill(row["answer"], texts, name)) for row in asked)
    plain = {key: value for key, value in data.items() if key not in ("answer", "follow_up")}
    answer = _fill(data["answer"], texts, name)
    drill = Drill(**plain, project=folder.name, answer=answer, follow_ups=follow_ups)
    if not _quoted(data["answer"]) and not (folder / "results" / f"{drill.figure}.svg").exists():
        raise ValueError(f"{name}: the answer has neither a measured number nor a figure")
    return drill


def _fill(answer: str, texts: Mapping[str, str], name: str) -> str:
    """Put measured numbers into an answer, and its lines into one."""
    try:
        quoted = _quoted(answer)
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}; a brace that is meant is written twice") from None
    if missing := quoted - set(texts):
        raise ValueError(f"{name} quotes {sorted(missing)}, not in results/demo.json")
    return " ".join(answer.format(**texts).split())


def _quoted(answer: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(answer) if name is not None}


def problems(folder: Path) -> Iterator[str]:
    """Yield everything that is wrong with a project's drills, what cannot be said in time included."""
    texts, seen = measured_texts(folder), set()
    for data in read_toml(folder / "drills.toml").get("drill", []):
        try:
            drill = _read(folder, data, texts)
        except ValueError as problem:
            yield str(problem)
            continue
        if drill.id in seen:
            yield f"{folder.name}: two drills are called {drill.id}"
        seen.add(drill.id)
        yield from (f"{folder.name}: drill {drill.id}: {problem}" for problem in _too_long(drill))
        if not any(follow_up.is_derived for follow_up in drill.follow_ups):
            yield f"{folder.name}: drill {drill.id}: neither follow-up's answer is a number or a derivation"


def _too_long(drill: Drill) -> Iterator[str]:
    from shared.practice.spoken import (
        count_words,  # for whoever writes cards; a learner needs no package for it
    )

    limits = [("the answer", drill.answer, MOST_WORDS)]
    limits += [
        (f"the answer of {row.question!r}", row.answer, MOST_FOLLOW_UP_WORDS) for row in drill.follow_ups
    ]
    for what, text, most in limits:
        try:
            if (words := count_words(text)) > most:
                yield f"{what} is {words} words when spoken, at most {most} fit"
        except ValueError as problem:
            yield f"{what}: {problem}"


def main() -> int:
    """Print every problem of every project's cards."""
    projects = load_projects()
    found = [problem for project in projects for problem in problems(project.folder)]
    print("\n".join(found) or "every card can be asked")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())

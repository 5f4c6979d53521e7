"""Write the drills as an Anki deck: one note per card, with tags, in light and in night mode."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from shared.practice.questions import FOLLOW_UPS, Drill
from shared.projects import load_study_list

DECK = 1_866_201_337  # fixed for ever: a new import goes into the same deck
# The number of the note type belongs to FIELDS: when they change, draw another one. Tried with Anki 26.9: under the number
# of before, or under a new one with the notes' ids of before, all notes are "conflicting" and none is imported. So the ids
# contain the number. The notes of before stay as they are, and can be deleted.
MODEL = 1_607_392_824
FIELDS = (
    *("Question", "Project", "Topic", "Answer"),
    *(f"Follow-up {number}{part}" for number in range(1, FOLLOW_UPS + 1) for part in ("", ", answer")),
    *("Red flag", "Proof"),
)

FRONT = """
<div class="where">{{Project}} · {{Topic}}</div>
<div class="question">{{Question}}</div>
"""
FOLLOW_UP = """
<details><summary>{{Follow-up N}}</summary><div>{{Follow-up N, answer}}</div></details>
"""
BACK = f"""
{{{{FrontSide}}}}
<hr id="answer">
<div class="answer">{{{{Answer}}}}</div>
{"".join(FOLLOW_UP.replace("N", str(number)) for number in range(1, FOLLOW_UPS + 1))}
<div class="flag"><b>Never say:</b> {{{{Red flag}}}}</div>
<div class="proof">Proof: <code>{{{{Proof}}}}</code></div>
"""
STYLE = """
.card {
  max-width: 34rem; margin: 1rem auto; padding: 0 1rem; text-align: left;
  font: 1.15rem/1.5 system-ui, sans-serif; color: #1c1c1c; background: #ffffff;
}
.where, .proof { font-size: 0.85rem; color: #5a5a5a; overflow-wrap: anywhere; }
.question { margin: 0.6rem 0; font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
hr { border: 0; border-top: 1px solid #c8c8c8; margin: 1rem 0; }
details { margin: 1rem 0; padding: 0.5rem 0.8rem; border: 1px solid #c8c8c8; border-radius: 0.4rem; }
summary { cursor: pointer; font-weight: 600; }
details > div { margin-top: 0.5rem; }
.flag { margin: 1rem 0; padding-left: 0.8rem; border-left: 0.25rem solid #b3261e; }
.flag b { color: #b3261e; }
.card.nightMode, .card.night_mode { color: #e6e6e6; background: #202124; }
.nightMode .where, .nightMode .proof, .night_mode .where, .night_mode .proof { color: #a8a8a8; }
.nightMode hr, .nightMode details, .night_mode hr, .night_mode details { border-color: #55585d; }
.nightMode .flag, .night_mode .flag { border-left-color: #ff8a80; }
.nightMode .flag b, .night_mode .flag b { color: #ff8a80; }
"""


def write_deck(drills: Iterable[Drill], file: Path) -> None:
    """Write an Anki deck; ids are stable, so importing it again updates the notes and keeps their history."""
    import genanki

    template = {"name": "Thirty seconds", "qfmt": FRONT.strip(), "afmt": BACK.strip()}
    fields = [{"name": name} for name in FIELDS]
    model = genanki.Model(
        MODEL, "Groundwork interview", fields=fields, templates=[template], css=STYLE.strip()
    )
    deck = genanki.Deck(DECK, "Groundwork")
    groups = load_study_list().topics
    for drill in drills:
        guid = genanki.guid_for("groundwork", MODEL, drill.key)
        tags = [_tag(text) for text in (drill.project, groups.get(drill.topic, "")) if text]
        deck.add_note(genanki.Note(model=model, fields=note_fields(drill), tags=tags, guid=guid))
    genanki.Package(deck).write_to_file(str(file))


def note_fields(drill: Drill) -> list[str]:
    """Return the texts of one note, as HTML, in the order of FIELDS."""
    follow_ups = [text for row in drill.follow_ups for text in (row.question, row.answer)]
    texts = [
        drill.question,
        drill.project,
        drill.topic,
        drill.answer,
        *follow_ups,
        drill.red_flag,
        drill.proof,
    ]
    return [html.escape(text, quote=False) for text in texts]


def _tag(text: str) -> str:
    """Return a text as a tag of Anki, which has no spaces: "World models + RL" becomes World-models-RL."""
    return re.sub(r"\W+", "-", text).strip("-")

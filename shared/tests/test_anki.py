"""The Anki deck: its fields, its tags, and ids that keep a learner's history."""

import sqlite3
import zipfile

import pytest

from shared.practice import anki as module
from shared.practice.questions import Drill, FollowUp

FOLLOW_UPS = (FollowUp("Why so?", "For 2 reasons."), FollowUp("Why not?", "3 < 4 & more."))
DRILLS = [
    Drill(
        "mini", name, f"What is {name}?", topic, f"It is {name} < 3.", "python demo.py", "Never.", FOLLOW_UPS
    )
    for name, topic in (("a", "what is a world model"), ("b", "of no group"))
]


@pytest.fixture
def read_notes(tmp_path):
    def write(number):
        file = tmp_path / f"{number}.apkg"
        module.write_deck(DRILLS, file)
        with zipfile.ZipFile(file) as archive:
            archive.extract("collection.anki2", tmp_path / str(number))
        with sqlite3.connect(tmp_path / str(number) / "collection.anki2") as database:
            return database.execute("select guid, mid, tags, flds from notes order by flds").fetchall()

    return write


def test_a_note_has_the_whole_interview_and_its_tags(read_notes):
    (guid, model, tags, fields), (_, _, other_tags, _) = read_notes(1)
    assert dict(zip(module.FIELDS, fields.split("\x1f"), strict=True)) == {
        "Question": "What is a?",
        "Project": "mini",
        "Topic": "what is a world model",
        "Answer": "It is a &lt; 3.",
        "Follow-up 1": "Why so?",
        "Follow-up 1, answer": "For 2 reasons.",
        "Follow-up 2": "Why not?",
        "Follow-up 2, answer": "3 &lt; 4 &amp; more.",
        "Red flag": "Never.",
        "Proof": "nox -s mini -- python demo.py",
    }
    assert (model, tags.split(), other_tags.split()) == (module.MODEL, ["mini", "World-models-RL"], ["mini"])
    assert guid


def test_a_new_deck_updates_the_notes_of_an_old_one(read_notes):
    assert read_notes(1) == read_notes(2)
    assert len({guid for guid, *_ in read_notes(3)}) == len(DRILLS)


def test_the_ids_belong_to_the_fields():
    """Who changes the fields must draw another number for the type of note: Anki would refuse the new deck."""
    known = {
        1_607_392_824: (
            "Question Project Topic Answer",
            "Follow-up 1", "Follow-up 1, answer", "Follow-up 2", "Follow-up 2, answer", "Red flag", "Proof",
        )
    }  # fmt: skip
    assert " ".join(module.FIELDS) == " ".join(known[module.MODEL])


def test_every_field_is_on_the_card():
    for name in module.FIELDS:
        assert f"{{{{{name}}}}}" in module.FRONT + module.BACK

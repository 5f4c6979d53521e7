"""The cards: what each must have, the numbers they quote, and how long they are when spoken."""

import json

import pytest

from shared.practice import questions
from shared.practice.questions import FollowUp, load_drills, problems
from shared.practice.spoken import count_words, spoken
from shared.tests.conftest import DRILLS


@pytest.fixture
def deck(mini):
    """Write the project's cards, and return its folder; its demo measured a length."""
    (mini.folder / "results").mkdir()
    numbers = {"length": {"value": 5.0, "text": "5.0", "label": "length"}}
    (mini.folder / "results" / "demo.json").write_text(json.dumps({"numbers": numbers}))

    def write(text=DRILLS):
        (mini.folder / "drills.toml").write_text(text)
        return mini.folder

    return write


def test_a_card_has_its_numbers_two_answered_follow_ups_and_a_proof(deck):
    (drill,) = load_drills(deck(DRILLS.replace("Because", "{length} because")))
    assert drill.answer == "A length. Here it is 5.0."
    assert drill.follow_ups == (
        FollowUp("Why one?", "The root of 9 + 16."),
        FollowUp("Why two?", "5.0 because lengths add along a line."),
    )
    assert (drill.key, drill.proof) == ("mini/what-is-a-norm", "nox -s mini -- python demo.py")
    assert list(problems(deck())) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("{length}", "{width}", "quotes ['width'], not in results/demo.json"),
        ("root of 9", "{root}", "quotes ['root'], not in results/demo.json"),
        ("{length}", "{}", "quotes [''], not in results/demo.json"),
        (
            "{length}",
            "{length} }",
            "Single '}' encountered in format string; a brace that is meant is written twice",
        ),
        ("{length}", "{{length}}", "the answer has neither a measured number nor a figure"),
        ('red_flag = "A norm is what is normal."', "", "has no red_flag"),
        ('red_flag = "A norm', 'read_flag = "A norm', "has no red_flag"),
        ("topic =", 'hint = "?"\ntopic =', "has hint, which no card has"),
        ("[[drill.follow_up]]", "[drill.follow_up]", "needs 2 [[drill.follow_up]]"),
        ('answer = "The root of 9 + 16."', "", "needs 2 [[drill.follow_up]]"),
        (DRILLS[DRILLS.rindex("[[drill.") :], "", "needs 2 [[drill.follow_up]]"),
    ],
)
def test_a_card_that_cannot_be_asked_is_refused_by_name(deck, old, new, complaint):
    text = DRILLS.replace(old, new, 1)
    if new.startswith("[drill."):
        text = text[: text.rindex("[[drill.")]
    with pytest.raises(ValueError, match=r"^mini: drill what-is-a-norm") as refused:
        load_drills(deck(text))
    assert complaint in str(refused.value)
    assert list(problems(deck(text))) == [str(refused.value)]


def test_a_figure_can_stand_for_the_number(deck):
    text = DRILLS.replace("{length}", "5").replace("[[drill.", 'figure = "squares"\n[[drill.', 1)
    folder = deck(text)
    with pytest.raises(ValueError, match="neither a measured number nor a figure"):
        load_drills(folder)
    (folder / "results" / "squares.svg").write_text("<svg/>")
    assert load_drills(folder)[0].figure == "squares"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("A length.", "word " * 69, ""),  # and "Here it is five point zero"
        ("A length.", "word " * 70, "the answer is 76 words when spoken, at most 75 fit"),
        ("The root of 9", "word " * 29, "the answer of 'Why one?' is 31 words when spoken, at most 30 fit"),
        ("A length.", "It is 1.5e-08.", "the answer: nobody says 1.5e-08"),
        ("The root of 9 + 16", "The root", "neither follow-up's answer is a number or a derivation"),
    ],
)
def test_what_cannot_be_said_in_time_is_listed(deck, old, new, complaint):
    text = DRILLS.replace(old, new)
    found = list(problems(deck(text)))
    assert found == ([f"mini: drill what-is-a-norm: {complaint}"] if complaint else [])
    load_drills(deck(text))  # a learner can be asked all the same


def test_every_problem_of_every_card_is_listed_for_who_writes_them(deck, mini, capsys, monkeypatch):
    second = DRILLS.replace("what-is-a-norm", "other").replace("{length}", "{none}")
    deck(DRILLS.replace("A length.", "word " * 76) + second + DRILLS)
    monkeypatch.setattr(questions, "load_projects", lambda: [mini])
    assert questions.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "mini: drill what-is-a-norm: the answer is 82 words when spoken, at most 75 fit",
        "mini: drill other quotes ['none'], not in results/demo.json",
        "mini: two drills are called what-is-a-norm",
    ]
    deck()
    assert questions.main() == 0


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("8,700 tokens", "eight thousand seven hundred tokens"),
        ("0.31", "zero point three one"),
        (".31", "point three one"),
        ("It is 5.", "It is five"),
        ("n²", "n squared"),
        ("O(n²d)", "O of n squared d)"),
        ("10⁻³", "ten to the minus three"),
        ("2⁶⁴", "two to the sixty-four"),
        ("10²³", "ten to the twenty-three"),
        ("x₀ + 1", "x zero plus one"),
        ("12·2,000²", "twelve times two thousand squared"),
        ("-3 of a 12-layer net", "minus three of a twelve-layer net"),
        ("99.9% in FP16 — and int8", "ninety-nine point nine percent in FP sixteen and int eight"),
        ("1/√d = 0.5", "one over root d equals zero point five"),
        ("327,009 and the 2nd", "three hundred twenty-seven thousand nine and the second"),
        ("3 or 4, 5", "three or four five"),
        ("GB/s", "GB over s"),
    ],
)
def test_numbers_and_signs_are_counted_as_they_are_spoken(written, words):
    assert spoken(written) == words
    assert count_words(written) == len(words.split())


@pytest.mark.parametrize("written", ["8.7e+03", "1e-9", "about 2e5 of them"])
def test_nobody_says_scientific_notation(written):
    with pytest.raises(ValueError, match="nobody says"):
        spoken(written)

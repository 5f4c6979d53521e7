"""The mutation tester: what it changes, what it leaves alone, and that a survivor is told."""

import re

import libcst as cst
import pytest

from shared.testing import mutation
from shared.tests.conftest import write_project

SOURCE = """
\"\"\"A docstring.\"\"\"
__all__ = ["f"]
Array = list[int]
LIMIT = 3


def f(x: int = 1) -> int:
    \"\"\"Another.\"\"\"
    if x > LIMIT:
        raise ValueError(f"too large: {x + 1}")
    return x + 1
"""
EQUIVALENT = """
[[mutant]]
file = "mini.py"
was = "LIMIT = 10"
now = "LIMIT = 11"
reason = "No test has so many numbers, and none needs to."
"""


def changes(source):
    module = cst.parse_module(source)
    return [mutation.make_mutant("m.py", module, change).key[1:] for change in mutation.find_changes(module)]


def test_what_is_changed_and_what_is_noise():
    found = changes(SOURCE)
    assert ("LIMIT = 3", "LIMIT = 4") in found
    assert ("if x > LIMIT:", "if x >= LIMIT:") in found
    assert ("return x + 1", "return x - 1") in found
    touched = " ".join(was for was, _ in found)
    for noise in ("docstring", "__all__", "Array", "too large", "Another"):
        assert noise not in touched


@pytest.fixture
def judged(tmp_path, monkeypatch, capsys):
    """Run the command on the little project, whose mistakes and tests can be given."""

    def run(equivalent="", **files):
        project = write_project(tmp_path / "projects" / "mini", **files)
        (project.folder / "tests" / "equivalent.toml").write_text(equivalent)
        monkeypatch.setattr(mutation, "ROOT", tmp_path)
        status = mutation.main(["mini", "more"] if "more" in files else ["mini", "mini"])
        return status, capsys.readouterr().out

    return run


def test_a_survivor_is_printed_ready_to_be_pasted(judged, tmp_path):
    status, said = judged()
    assert status == 1
    assert 'file = "mini.py"\nwas = "LIMIT = 10"\nnow = "LIMIT = 11"\nreason = ""' in said
    assert "return x / factor" not in said  # killed
    assert "killed (" in said
    assert (tmp_path / "projects" / "mini" / "mini.py").read_text().count("LIMIT = 10") == 1


def test_an_equivalent_one_needs_a_reason_and_must_survive(judged):
    status, said = judged(EQUIVALENT)
    assert "LIMIT = 11" not in said
    assert "1 more are equivalent" in said
    with pytest.raises(ValueError, match="a reason of 12 characters"):
        judged(EQUIVALENT.replace("No test has so many numbers, and none needs to.", "because"))
    wrong = EQUIVALENT.replace("LIMIT = 11", "LIMIT = 12") + EQUIVALENT.replace("mini.py", "maxi.py")
    status, said = judged(wrong)
    assert status == 1
    assert "lists what does not survive, in mini.py:\n- LIMIT = 10\n+ LIMIT = 12" in said
    assert "lists what does not survive, in maxi.py:" in said


def test_an_endless_loop_is_killed(tmp_path):
    project = write_project(tmp_path / "mini")
    endless = mutation.Mutant(("mini.py", "", ""), 1, "while True:\n    pass\n")
    assert not mutation.survives(project, endless, limit_s=0.5)


def test_list_only_counts(tmp_path, monkeypatch, capsys):
    write_project(tmp_path / "projects" / "mini")
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    monkeypatch.setattr(mutation, "survives", lambda *_: pytest.fail("a test ran"))
    assert mutation.main(["mini", "mini", "--list"]) == 0
    assert re.fullmatch(r"mini.py: \d+ changes\n", capsys.readouterr().out)


def test_a_sample_is_the_same_each_time(tmp_path, monkeypatch, capsys):
    write_project(tmp_path / "projects" / "mini")
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    tried = []
    monkeypatch.setattr(
        mutation, "survives", lambda project, mutant, *_: tried.append(mutant) or not mutant.key[1]
    )
    for _ in range(2):
        assert mutation.main(["mini", "mini", "--sample", "3"]) == 0
    first, second = ([mutant.key for mutant in tried[start : start + 4] if mutant.key[1]] for start in (0, 4))
    assert len(first) == 3
    assert first == second
    said = capsys.readouterr().out
    assert re.search(r"mini.py: 3 of 3 killed \(100.0%\), 0 more are equivalent, a sample of \d+", said)

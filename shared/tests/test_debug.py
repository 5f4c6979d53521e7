"""The other interview: a mistake is planted, found, mended and timed; and never taken for the solution."""

import datetime
import time

import pytest

from shared.practice import __main__ as practice
from shared.practice import debug as module
from shared.practice.schedule import Schedule, now
from shared.projects import load_projects
from shared.tests.conftest import MISTAKES, REFERENCE, write_project

MORE_EDITS = """
[scale_adds]
diagnosis = "looks like a sum, not a product"
replace = "x * factor"
with = "x + factor"

[norm_over_columns]
diagnosis = "looks like the rows are not summed"
replace = "_AXIS = -1"
with = "_AXIS = 0"
"""


@pytest.fixture
def case(learner, mini):
    return module.Case(learner, mini)


def test_one_edit_is_planted_and_told_once_it_is_mended(case, output, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    case.plant(1)
    path = case.folder / "mini.py"
    assert path == case.learner.folder / "debug" / "mini" / "mini.py"
    assert path.read_text(encoding="utf-8") == REFERENCE.lstrip().replace(
        "np.sqrt((x**2).sum(axis=_AXIS))", "x[:, 0]"
    )
    clock[0] += 75
    case.grade_and_show(hint=False)
    assert "✓ scale 1/1  ✗ norm 0/1" in output.getvalue()
    assert "not summed" not in output.getvalue()  # the diagnosis would give it away
    assert "tests/test_mini.py::test_norm: A 3-4-5 triangle." in output.getvalue()
    case.grade_and_show(hint=True)
    assert "not summed" in output.getvalue()
    path.write_text(REFERENCE, encoding="utf-8")
    clock[0] += 10
    case.grade_and_show(hint=False)
    assert "Found and mended in 1:25." in output.getvalue()
    assert "norm_without_root: looks like the rows are not summed" in output.getvalue()
    assert "+    return x[:, 0]" in output.getvalue()
    assert case.learner.recall("debug:mini", "times") == {"last": 85.0, "best": 85.0}
    schedule = Schedule(case.learner.folder)
    assert schedule.due(schedule.cards, at=now() + datetime.timedelta(days=4)) == ["debug:mini"]


def test_giving_up_shows_it_and_it_comes_back_soon(case, output):
    case.plant(1)
    case.give_up()
    assert "norm_without_root" in output.getvalue()
    assert case.learner.recall("debug:mini", "times") == {}
    soon = now() + datetime.timedelta(minutes=2)
    assert Schedule(case.learner.folder).due(["debug:mini"], at=soon) == ["debug:mini"]


def test_several_at_once_and_a_reset_keeps_the_copy(tmp_path, learner):
    project = write_project(tmp_path / "mini", mistakes=MISTAKES + MORE_EDITS)
    case = module.Case(learner, project)
    case.plant(2)
    assert len(case.planted) == 2
    with pytest.raises(SystemExit, match="mini has 3 mistakes that can be planted together, not 4"):
        case.plant(4)
    (case.folder / "mini.py").write_text("mine = 1\n", encoding="utf-8")
    case.plant(1)
    (backup,) = (case.folder / "backups").iterdir()
    assert backup.read_text(encoding="utf-8") == "mine = 1\n"


def test_a_project_whose_mistakes_are_all_additions_says_so(tmp_path, learner):
    addition = (
        '[bad]\ndiagnosis = "the factor is ignored"\nadd = "def scale(x, factor=2.0): return x * 2.0"\n'
    )
    case = module.Case(learner, write_project(tmp_path / "mini", mistakes=addition))
    with pytest.raises(SystemExit, match="mini has no mistake yet that reads like code"):
        case.plant(1)


def test_what_was_not_found_yet_comes_first(tmp_path, learner):
    project = write_project(tmp_path / "mini", mistakes=MISTAKES + MORE_EDITS)
    for _ in range(10):
        planted, _ = module.choose(project, 1, ["norm_without_root", "norm_over_columns"])
        assert [mistake.name for mistake in planted] == ["scale_adds"]


def test_a_planted_file_is_never_the_solution_nor_the_answer(case, mini, output):
    case.plant(1)
    practice.show_solution(case.learner, mini, "norm", give_up=True)
    assert "x[:, 0]" not in output.getvalue()
    assert "np.sqrt" in output.getvalue()
    assert not case.learner.files(mini)[0].exists()
    assert case.learner.entry("mini") == {}  # no marks, no times of the deliverable


def test_the_command(tmp_path, capsys):
    assert module.main([], folder=tmp_path) == 0
    assert "activations" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        module.main(["activation"], folder=tmp_path)
    assert "did you mean activations?" in capsys.readouterr().err


def test_activations_has_plenty_to_find():
    project = next(project for project in load_projects() if project.name == "activations")
    planted, _ = module.choose(project, module.HARD, [])
    assert len(planted) == module.HARD
    assert len(module.edits(project)) > 20

"""Generated blocks, and the layout check."""

import dataclasses
import importlib.util
import json
import sys

import matplotlib
import pytest

from shared.measuring import readme as generated
from shared.measuring.demo import Demo
from shared.measuring.readme import fill_measured, fill_readme
from shared.projects import ROOT, StudyList, load_project, load_study_list

STUDY = StudyList(
    topics={"neurons": "Basics"},
    planned=(),
    drills=("What is a norm?",),
    deliverables=("A project for the tests of the tools",),
    papers={"1234.56789": "On norms"},
)


def load_layout():
    spec = importlib.util.spec_from_file_location("check_layout", ROOT / "ci" / "check_layout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_demo(folder, monkeypatch, *arguments):
    """Do what a small demo.py does."""
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    demo = Demo(str(folder / "demo.py"))
    demo.number("length", 5.0, ".1f", "length of (3, 4)")
    demo.table("norms", ["row", "norm"], [["a|b", 5], ["c", 13]], caption="Norms")
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 4, 9])
    demo.figure("squares", figure, alt="Squares rise", caption="Squares.")
    with demo.progress("working", 2) as advance:
        advance()
    demo.finish()


def test_a_demo_writes_build_and_with_save_what_is_committed(mini, monkeypatch):
    run_demo(mini.folder, monkeypatch)
    assert {path.name for path in (mini.folder / "build").iterdir()} == {
        "demo.json",
        "squares.svg",
        "squares.png",
    }
    assert not (mini.folder / "results").exists()
    first = (mini.folder / "build" / "squares.svg").read_bytes()
    run_demo(mini.folder, monkeypatch, "--save")
    assert {path.name for path in (mini.folder / "results").iterdir()} == {"demo.json", "squares.svg"}
    assert (
        mini.folder / "results" / "squares.svg"
    ).read_bytes() == first  # so that git shows real changes only


def test_blocks_are_filled_from_what_was_measured(mini, monkeypatch):
    readme = mini.folder / "README.md"
    kinds = ("numbers", "demo:norms", "figure:squares", "drills")
    readme.write_text(
        "# Mini\n" + "".join(f"<!-- generated:{kind} -->\nold\n<!-- /generated -->\n" for kind in kinds)
    )
    run_demo(mini.folder, monkeypatch, "--save")
    assert not fill_readme(readme, write=False)
    assert "old" in readme.read_text()
    fill_readme(readme)
    text = readme.read_text()
    assert "old" not in text
    assert "| length of (3, 4) | 5.0 |" in text
    assert "| a\\|b | 5 |" in text
    assert "![Squares rise](results/squares.svg)" in text
    assert "Here it is 5.0." in text
    assert fill_readme(readme, write=False)


RESULT = {
    "provenance": {
        "device": "a CPU", "threads": 1, "python": "3.13.1", "versions": {"numpy": "2.4"},
        "date": "2026-01-01", "commit": "abc",
    },
    "rows": [
        {
            "group": "norm", "case": "small", "name": "fast", "note": "cold", "noise": 0.01, "targets": {"scipy": 2.0},
            "milliseconds": {"ours": 2.0, "scipy": 5.0},
            "ratios": {"scipy": {"median": 2.5, "low": 2.4, "high": 2.6}},
        },
        {"group": "memory", "case": "norm", "columns": {"peak": "3 MB"}},
    ],
}  # fmt: skip


def save_result(folder, device, result=RESULT):
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / f"{device}.json").write_text(json.dumps(result))


def test_measured_holds_every_device_and_all_that_the_demo_measured(mini, monkeypatch):
    measured = mini.folder / "MEASURED.md"
    run_demo(mini.folder, monkeypatch, "--save")
    assert fill_measured(measured)  # a project without the file does not ask for one
    assert not measured.exists()
    measured.touch()
    save_result(mini.folder, "a-cpu")
    other = {**RESULT, "provenance": {**RESULT["provenance"], "device": "another CPU"}}
    save_result(mini.folder, "b-cpu", other)
    assert not fill_measured(measured, write=False)
    assert measured.read_text() == ""
    run_demo(mini.folder, monkeypatch, "--save")  # writes it as well
    text = measured.read_text()
    assert "`python -m shared.measuring.readme`" in text.splitlines()[2]
    expected = [
        "| case | fast, ms | scipy / fast | noise |",
        "| small (cold) | 2 | 2.50 (2.40–2.60), ≥ 2 | ±1% |",
        "| norm | 3 MB |",
        "*a CPU, 1 thread",
        "*another CPU, 1 thread",
        "| a\\|b | 5 |",
        "*Norms*",
        "| length of (3, 4) | 5.0 |",
    ]
    positions = [text.index(line) for line in expected]
    assert positions == sorted(positions)
    assert fill_measured(measured, write=False)


def test_the_command_lists_and_writes_what_is_out_of_date(mini, monkeypatch, capsys):
    monkeypatch.setattr(generated, "ROOT", mini.folder.parent)
    monkeypatch.setattr(generated, "load_projects", lambda: [mini])
    (mini.folder / "README.md").write_text("# Mini\n")
    (mini.folder / "MEASURED.md").touch()
    assert generated.main(["--check"]) == 1
    assert capsys.readouterr().out == "mini/MEASURED.md: out of date\n"
    assert generated.main([]) == 0
    assert capsys.readouterr().out == "mini/MEASURED.md: filled\n"
    assert generated.main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_the_headline_is_one_measured_row(mini, monkeypatch, tmp_path):
    headlines = tmp_path / "equations.toml"
    headlines.write_text('[mini]\nheadline = ["norm", "small", "scipy"]\n')
    monkeypatch.setattr(generated, "HEADLINES", headlines)
    path = mini.folder / "README.md"
    path.write_text("<!-- generated:headline -->\n<!-- /generated -->\n")
    fill_readme(path)
    assert "*Not measured yet: `nox -s bench -- mini`.*" in path.read_text()
    save_result(mini.folder, "a-cpu")
    fill_readme(path)
    assert "**norm, small: `scipy` takes 2.50 times as long as `fast`** (a CPU)." in path.read_text()


@pytest.mark.parametrize("kind", ["nonsense", "demo:absent", "figure:absent", "nonsense:absent"])
def test_an_unknown_block_is_an_error(mini, kind):
    readme = mini.folder / "README.md"
    readme.write_text(f"<!-- generated:{kind} -->\n<!-- /generated -->")
    with pytest.raises(ValueError, match=f"generated:{kind}"):
        fill_readme(readme)


def test_the_layout_check_names_everything_that_is_missing(mini, monkeypatch):
    layout = load_layout()

    def problems_of(project):
        return layout.project_problems(project, STUDY)

    assert set(problems_of(mini)) == {"no README.md", "no demo.py", "no benchmark.py"}
    for name in ("README.md", "demo.py", "benchmark.py"):
        (mini.folder / name).write_text("")
    problems = "\n".join(problems_of(mini))
    assert "no committed results: nox -s bench -- mini" in problems
    assert "quotes ['length']" in problems
    assert "3 mistakes, at least 8" in problems
    assert (
        "caught_by.json and mistakes.toml disagree on ['norm_without_root', 'scale_ignores_factor', 'shift_is_a_scale']"
        in problems
    )
    assert "testpaths in pyproject.toml lack drills.toml" in problems
    run_demo(mini.folder, monkeypatch, "--save")
    (mini.folder / "results" / "cpu.json").write_text(json.dumps({}))
    toml = mini.folder / "tests" / "hints.toml"
    toml.write_text(toml.read_text().replace("[norm]", "[length]"))
    mini = load_project(mini.folder)
    problems = "\n".join(problems_of(mini))
    assert "nothing for ['norm']" in problems
    assert "['length'] neither in __all__ nor a kernel" in problems
    drills = mini.folder / "drills.toml"
    drills.write_text(drills.read_text().replace("neurons", "dreams").replace("python demo.py", "mini.py"))
    problems = "\n".join(problems_of(mini))
    assert "topic 'dreams' is neither the project's nor planned" in problems
    assert "evidence mini.py is neither a command nor a test" in problems


def test_a_core_is_small_and_has_right_answers(mini):
    layout = load_layout()
    for name in ("README.md", "demo.py", "benchmark.py"):
        (mini.folder / name).write_text("word " * 1501)

    def problems():
        return "\n".join(layout.project_problems(load_project(mini.folder), STUDY))

    assert "1 right answers, at least 2" in problems()
    assert "no MEASURED.md" in problems()
    assert "README.md has 1501 words, at most 1500 are read" in problems()
    assert "lines" not in problems()
    path = mini.folder / "mini.py"
    long = "\n\ndef long():\n" + '    """Be long.\n\n    Very.\n    """\n' + "    x = 1\n" * 29
    path.write_text(path.read_text() + long)
    assert "mini.py, long: 30 lines without its docstring" in problems()
    path.write_text(path.read_text().replace("    x = 1\n", "    x = 1\n" * 6))
    assert "lines, a core has 200" in problems()
    mistakes = mini.folder / "tests" / "mistakes.toml"
    mistakes.write_text(mistakes.read_text().replace("return x * 2.0", "return _check(x) or x * 2.0"))
    assert (
        "mistake scale_ignores_factor adds code that uses private names of the reference: ['_check']"
        in problems()
    )
    (mini.folder / "tests" / "right" / "plain.py").unlink()  # a project that has no core yet
    assert "right answers" not in problems()
    assert "1501 words" not in problems()


def test_the_rooms_of_shared_have_walls(tmp_path):
    layout = load_layout()
    for name, text in {
        "projects.py": "",
        "helpers.py": "",
        "attic/old.py": "",
        "tests/test_x.py": "from shared.tour import tables",
        "testing/plugin.py": "from shared.projects import ROOT\nfrom shared.practice.learner import Learner",
        "cuda_emulator/control.py": "from . import toolchain\nfrom shared.projects import ROOT",
        "practice/drill.py": "from shared import projects\nimport shared.tour.tables",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(layout.room_problems(tmp_path)) == [
        "shared/helpers.py belongs in a room: testing, measuring, practice, tour, cuda_emulator",
        "shared/attic is no room of testing, measuring, practice, tour, cuda_emulator",
        "shared/cuda_emulator/control.py imports shared.projects",
        "shared/practice/drill.py imports shared.tour.tables",
        "shared/testing/plugin.py imports shared.practice.learner",
    ]


def test_every_line_of_the_study_list_must_lead_somewhere(mini, monkeypatch):
    layout = load_layout()
    run_demo(mini.folder, monkeypatch, "--save")
    (mini.folder / "README.md").write_text("arXiv 1234.56789")
    assert list(layout.study_problems(STUDY, [mini])) == []
    longer = dataclasses.replace(
        STUDY,
        topics={"neurons": "Basics", "dreams": "Basics", "sleep": "Rest"},
        planned=("neurons", "sleep"),
        drills=("What is a norm?", "What is sleep?"),
        deliverables=("A bed",),
        papers={"9999.00001": "On beds"},
    )
    assert set(layout.study_problems(longer, [mini])) == {
        "study list: 'neurons' is shown by a project, so it is planned no more",
        "study list: no project shows 'dreams'",
        "study list: no drill about 'dreams'",
        "study list: no drill about 'sleep'",
        "study list: no drill asks 'What is sleep?'",
        "study list: no project is 'A bed'",
        "study list: no README uses arXiv 9999.00001 (On beds)",
    }


def test_the_study_list_is_whole():
    study = load_study_list()
    assert (len(study.topics), len(study.drills), len(study.deliverables)) == (40, 20, 13)
    assert set(study.planned) < set(study.topics)


def test_a_topic_leads_to_the_project_that_shows_it_or_asks_about_it(mini, monkeypatch):
    run_demo(mini.folder, monkeypatch, "--save")
    topics = {"neurons": "Basics", "dreams": "Basics", "sleep": "Rest"}
    monkeypatch.setattr(generated, "load_study_list", lambda: dataclasses.replace(STUDY, topics=topics))
    shown = "[neurons](projects/mini/README.md)"
    assert f"| Basics | {shown}<br>dreams (planned) |\n| Rest | sleep (planned) |" in generated._topics(
        [mini]
    )
    drills = mini.folder / "drills.toml"
    drills.write_text(drills.read_text().replace("neurons", "sleep"))
    assert "| Rest | [sleep](projects/mini/README.md) |" in generated._topics([mini])


def test_the_mutation_scores_are_summed_and_listed(mini, monkeypatch, tmp_path):
    monkeypatch.setattr(generated, "__file__", str(tmp_path / "readme.py"))
    assert generated._mutation_scores([mini]) == ""  # not measured yet
    rows = [
        {"project": name, "killed": 38, "judged": judged, "equivalent": 1, "commit": "abc"}
        for name, judged in (("mini", 38), ("maxi", 39))
    ]
    result = {"provenance": {"date": "today"}, "sample": 40, "rows": rows}
    (tmp_path / "mutation_scores.json").write_text(json.dumps(result))
    assert "notice 76 of 77 small changes" in generated._mutants([mini])
    assert "(2 more make no difference), and all of 3 known mistakes" in generated._mutants([mini])
    table = generated._mutation_scores([mini])
    assert "| maxi | 38 of 39 | 1 |" in table
    assert "At most 40 of each core, drawn at random; today, commit abc" in table


def test_markup_is_not_read():
    page = (
        "# Two words\n<!-- generated:x -->\n| a | [b](c) |\n| --- | --- |\n```sh\nnox -l\n```\n- one<br>two"
    )
    assert load_layout().words_read(page) == len("Two words a [b](c) nox -l one two".split())


@pytest.mark.parametrize(
    ("evidence", "exists"),
    [
        ("demo.py", True),
        ("python demo.py", True),
        ("python nothing.py", False),
        ("tests/test_mini.py::test_norm", True),
        ("tests/test_mini.py::test_absent", False),
        ("tests/test_mini.py::test_nor", False),
    ],
)
def test_evidence_must_lead_somewhere(mini, evidence, exists):
    (mini.folder / "demo.py").write_text("")
    assert load_layout()._exists(mini.folder, evidence) is exists

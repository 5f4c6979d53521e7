"""The tour: one page that needs no other file, whatever a demo does. What a browser makes of it: test_tour_browser.py."""

import dataclasses
import datetime
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from fsrs import Rating
from rich.console import Console

from shared.practice.learner import Learner
from shared.practice.questions import Drill
from shared.practice.schedule import WRITE, Schedule
from shared.projects import ROOT, StudyList, load_projects, read_toml
from shared.tests.conftest import DRILLS
from shared.tour import __main__ as tour
from shared.tour import tables

DEMO = """
import sys
sys.path.append({root!r})
import matplotlib
matplotlib.use("agg")
from matplotlib.figure import Figure
from shared.measuring.demo import Demo
demo = Demo(__file__)
demo.number("length", 5.0, ".1f", "length")
demo.table("t", ["a"], [["<b>&"]])
figure = Figure(figsize=(3, 2))
figure.subplots().plot([1, 4, 9])
demo.figure("squares", figure, alt="Squares rise", caption="Squares.")
demo.finish()
"""

QUICK = """
import json, pathlib
build = pathlib.Path("build")
build.mkdir(exist_ok=True)
build.joinpath("squares.svg").write_text("<svg/>")
figures = {"squares": {"alt": "Squares rise", "caption": "Squares."}}
build.joinpath("demo.json").write_text(json.dumps({"numbers": {}, "tables": {}, "figures": figures}))
"""


@pytest.fixture
def toured(mini):
    (mini.folder / "demo.py").write_text(QUICK)
    (mini.folder / "drills.toml").write_text("")
    return mini


@pytest.fixture
def learner(tmp_path):
    return Learner(tmp_path / "practice", Console(file=io.StringIO()))


@pytest.fixture
def schedule(tmp_path):
    return Schedule(tmp_path / "practice")


@pytest.fixture
def page_of(learner, schedule, tmp_path):
    """Return a function that renders stops as they would stand in build/tour/index.html."""
    path = tmp_path / "build" / "tour" / "index.html"
    return lambda *stops, groups=(): tour.render(
        tour.board(stops, learner, schedule), dict(groups), page=path
    )


# --- the demos --------------------------------------------------------------------------------------------------


def test_the_page_holds_everything_itself(toured, page_of):
    (toured.folder / "demo.py").write_text(DEMO.format(root=str(ROOT)))
    stop = tour.visit(toured)
    assert stop.error == ""
    page = page_of(stop)
    assert 'alt="Squares rise"' in page
    assert "&lt;b&gt;&amp;" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    assert not re.search(r'src="(?!data:)', page)
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise RuntimeError('no data')", "RuntimeError: no data"),
        ("pass", "is demo.finish() missing?"),
        ("exit(2)", "exit status 2"),
    ],
)
def test_a_demo_that_fails_is_shown_in_its_place(toured, page_of, source, says):
    tour.visit(toured)  # leaves a demo.json that must not be taken for the next run's
    (toured.folder / "demo.py").write_text(source)
    stop = tour.visit(toured)
    assert says in stop.error
    page = page_of(stop)
    assert "The demo failed." in page
    assert "✗&nbsp;demo failed" in page
    assert "✓" not in page


def test_a_demo_that_never_ends_is_ended(toured, monkeypatch):
    (toured.folder / "demo.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(tour, "DEMO_LIMIT_S", 0.3)
    assert "took longer" in tour.visit(toured).error


def test_a_drill_without_its_number_fails_its_own_stop_only(toured):
    (toured.folder / "drills.toml").write_text(DRILLS.replace("{length}", "{nothing}"))
    assert "quotes ['nothing']" in tour.visit(toured).error


def test_one_failure_does_not_stop_the_others_but_fails_the_session(toured, monkeypatch, tmp_path, capsys):
    broken = shutil.copytree(toured.folder, tmp_path / "broken")
    (broken / "mini.py").rename(broken / "broken.py")
    (broken / "demo.py").write_text("raise RuntimeError('no data')")
    projects = [dataclasses.replace(toured, folder=broken), toured]
    monkeypatch.setattr(tour, "load_projects", lambda: projects)
    monkeypatch.setattr(tour, "ROOT", tmp_path)
    assert tour.main([]) == 1
    page = (tmp_path / "build" / "tour" / "index.html").read_text()
    assert "RuntimeError: no data" in page
    assert 'alt="Squares rise"' in page
    assert "GAIA-1/2 architecture" in page
    assert "broken: failed: RuntimeError: no data" in capsys.readouterr().out
    assert tour.main(["--project", "mini"]) == 0
    page = (tmp_path / "build" / "tour" / "index.html").read_text()
    assert "broken" not in page


def test_a_picture_without_a_browser_is_refused_before_the_demos_run(monkeypatch, capsys):
    monkeypatch.setattr(tour, "lacking", lambda: "no chromium")
    monkeypatch.setattr(tour, "visit", lambda project: pytest.fail("a demo ran"))
    with pytest.raises(SystemExit):
        tour.main(["--picture", "board.png"])
    assert "cannot be taken: no chromium" in capsys.readouterr().err


EXPORT = """
import json, pathlib
weights = {"layer.weight": {"shape": [2, 3], "data": "AAAAAAAA", "scales": "AACAPwAAgD8="}}
pathlib.Path("build/dream.json").write_text(json.dumps(weights))
"""


def test_weights_that_a_project_exports_become_a_figure(toured, page_of):
    (toured.folder / "export.py").write_text(EXPORT)
    stop = tour.visit(toured)
    assert (stop.error, stop.n_dream_weights) == ("", 6)
    page = page_of(stop)
    assert '"data": "AAAAAAAA"' in page
    assert "function makeDenoiser" in page
    (toured.folder / "export.py").write_text("")  # what an earlier run exported does not count
    stop = tour.visit(toured)
    assert (stop.error, stop.dream) == ("", {})
    page = page_of(stop)
    assert 'id="playable-dream"' not in page
    assert "function makeDenoiser" not in page


def test_an_export_that_fails_is_shown_in_its_place(toured, page_of):
    (toured.folder / "export.py").write_text("raise RuntimeError('no weights')")
    stop = tour.visit(toured)
    assert "no weights" in stop.error
    assert "The demo failed." in page_of(stop)


# --- the board --------------------------------------------------------------------------------------------------


def test_the_board_of_a_beginner_is_empty(mini, learner, schedule):
    (row,) = tour.board([tour.collect(mini, "broken")], learner, schedule)
    assert (row.written, len(row.marks), row.best, row.last) == (0, 2, "", "")
    assert (row.due, row.again, row.headline) == (0, False, None)


def test_the_board_shows_progress_times_and_what_is_due(toured, learner, schedule, page_of):
    cards = "".join(DRILLS.replace("what-is-a-norm", name) for name in "abc")
    (toured.folder / "drills.toml").write_text(cards)
    (toured.folder / "results").mkdir()
    numbers = {"length": {"value": 5, "text": "5", "label": "length"}}
    (toured.folder / "results" / "demo.json").write_text(
        json.dumps({"numbers": numbers, "tables": {}, "figures": {}})
    )
    learner.remember("mini", marks={"scale": "core", "norm": "failing"}, times={"best": 61.0, "last": 125.0})
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    schedule.review("mini/a", Rating.Good, at=long_ago)
    schedule.review("mini/b", Rating.Easy)  # now: not due yet
    schedule.review("other/c", Rating.Good, at=long_ago)
    schedule.review(f"{WRITE}mini", Rating.Good, at=long_ago)
    stop = tour.visit(toured)
    (row,) = tour.board([stop], learner, schedule)
    assert (row.written, row.best, row.last, row.due, row.again) == (1, "1:01", "2:05", 1, True)
    page = page_of(stop)
    for text in ("1 of 2", "1:01, 2:05", "1 of 3", "due to be written again"):
        assert text in page
    beginner = tour.BoardRow(stop, {"scale": "blank", "norm": "blank"}, "", "", False, 0, None)
    page = tour.render([row, beginner], {}, page=learner.folder / "index.html")
    assert page.count('class="none">–</td>') == 3  # its marks, its times, its drills
    assert "0 of" not in page


def test_a_function_that_is_gone_counts_no_more(mini, learner, schedule):
    learner.remember("mini", marks={"scale": "all", "removed": "core"})
    (row,) = tour.board([tour.collect(mini, "broken")], learner, schedule)
    assert row.written == 1


def test_the_study_list_leads_to_projects_and_shows_what_is_planned(mini, page_of):
    study = StudyList({"neurons": "DL", "PPO": "RL", "VQ-VAE": "RL"}, ("PPO", "VQ-VAE"), (), (), {})
    stop = tour.collect(mini, "broken")
    stop.drills = [Drill("mini", "a", "What does PPO do?", "PPO", "It clips.", "python demo.py", "", ())]
    groups = tour.topic_map(study, [stop])
    assert groups == {
        "DL": {"neurons": (False, ["mini"])},
        "RL": {"PPO": (True, ["mini"]), "VQ-VAE": (True, [])},
    }
    page = page_of(stop, groups=groups)
    assert '<li><a href="#mini" title="mini">neurons</a>' in page
    assert '<li class="planned"><a href="#mini" title="mini">PPO · planned</a>' in page
    assert '<li class="planned"><span>VQ-VAE · planned</span>' in page


# --- what is measured -------------------------------------------------------------------------------------------

TIMED = {
    "group": "softmax",
    "case": "float32",
    "milliseconds": {"ours": 2.0, "scipy": 5.0},
    "ratios": {"scipy": {"median": 2.5, "low": 2.4, "high": 2.6}, "copy": {"median": 0.5, "low": 0.4, "high": 0.6}},
    "noise": 0.01,
    "targets": {"scipy": 2.0},
    "note": None,
}  # fmt: skip
BELOW = {**TIMED, "case": "float64", "targets": {"scipy": 3.0}, "note": "cold"}
RECORDED = {"group": "memory", "case": "ours", "columns": {"MB": "3"}}
RESULT = {"provenance": {"device": "a CPU"}, "rows": [RECORDED, TIMED, BELOW]}
PROVENANCE = {"device": "a CPU", "threads": 1, "date": "2026-01-01", "commit": "abc", "versions": {}}


def test_tables_hold_ratios_against_their_targets():
    (timed,), (recorded,) = tables.tables(RESULT)
    assert timed.columns == ["case", "ours, ms", "scipy / ours", "copy / ours"]
    assert [cell.text for cell in timed.rows[0]] == ["float32", "2", "2.50, target 2", "0.50"]
    assert [row[2].verdict for row in timed.rows] == ["met", "below"]
    assert timed.rows[1][0].text == "float64 (cold)"
    assert [[cell.text for cell in row] for row in recorded.rows] == [["ours", "3"]]


def test_without_a_target_the_first_table_is_shown():
    shown, more = tables.tables({"rows": [RECORDED, {**TIMED, "targets": {}}]})
    assert [table.caption for table in (*shown, *more)] == ["memory", "softmax"]
    assert len(shown) == 1


def test_the_headline_says_whether_it_meets_its_target():
    best = tables.headline([RESULT], ["softmax", "float32", "scipy"])
    assert (best.times, best.target, best.verdict) == ("2.50", "2", "met")
    assert tables.headline([RESULT], ["softmax", "float64", "scipy"]).verdict == "below"
    assert tables.headline([RESULT], ["softmax", "float32", "copy"]).verdict == ""
    assert tables.headline([RESULT], ["softmax", "float16", "scipy"]) is None


def test_the_roofline_takes_a_measured_roof_before_the_datasheets(mini):
    numbers = {"intensity_naive": {"value": 0.06}, "ridge": {"value": 9.6}}
    roofline = tables.roofline(mini, {"numbers": numbers})
    assert roofline["kernels"] == [{"name": "naive", "intensity": 0.06}]
    assert all("not measured" in gpu["source"] for gpu in roofline["gpus"])
    ceilings = [("copy", {"GB/s": "2,900"}), ("float32 arithmetic", {"TFLOP/s": "60.5"})]
    rows = [{"group": "ceilings", "case": case, "columns": columns} for case, columns in ceilings]
    rows.append({**TIMED, "group": "float32, 4096 x 4096 x 4096", "case": "naive"})
    (mini.folder / "results").mkdir()
    (mini.folder / "results" / "gpu.json").write_text(
        json.dumps({"provenance": {"device": "a GPU"}, "rows": rows})
    )
    first = tables.roofline(mini, {"numbers": numbers})["gpus"][0]
    assert (first["name"], first["flops"], first["bytes"], first["source"]) == (
        "a GPU",
        60.5e12,
        2.9e12,
        "measured",
    )
    assert first["speeds"] == {"naive": pytest.approx(2 * 4096**3 / 0.002)}


# --- every project of this repository ---------------------------------------------------------------------------

PROJECTS = load_projects()


def test_every_project_has_its_entry_and_no_other():
    assert list(read_toml(tour.EQUATIONS)) == [project.name for project in PROJECTS]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_every_project_has_an_equation_words_and_a_headline(project):
    said = tour.Stop(project).said
    assert said["equations"]
    equation = ElementTree.fromstring(f"<math>{''.join(said['equations'])}</math>")
    known = set("mrow mi mn mo mtext mspace msub msup msubsup munder mover mfrac msqrt".split())
    assert {element.tag for element in equation.iter()} - {"math"} <= known
    assert all(not (element.text or "").strip() for element in equation.iter() if len(element))
    counts = {"msub": 2, "msup": 2, "munder": 2, "mover": 2, "mfrac": 2, "msubsup": 3}
    assert all(len(element) == counts[element.tag] for element in equation.iter() if element.tag in counts)
    assert 3 < len(said["words"].split()) < 30
    results = tables.read_results(project)
    measured = any("ratios" in row for result in results for row in result["rows"])
    assert measured or project.gpu
    assert not measured or tables.headline(results, said["headline"]) is not None


def test_every_name_of_a_file_leads_to_it(page_of, learner, schedule, tmp_path):
    path = ROOT / "build" / "tour" / "index.html"
    stops = [tour.collect(project, "not run") for project in PROJECTS]
    page = tour.render(tour.board(stops, learner, schedule), {}, page=path)
    assert (
        re.findall(r' href="(?!#)[^"]*"', page) == []
    )  # page.js makes them links where they are beside the page
    links = re.findall(r'data-href="([^"]+)"', page)
    assert "../../projects/cuda_matmul/kernels/naive.cu" in links
    for project in PROJECTS:
        for name in (f"{project.name}.py", "README.md", "tests", "demo.py", "benchmark.py"):
            assert f"../../projects/{project.name}/{name}" in links
    for link in links:
        assert os.path.normpath(path.parent / link).startswith(str(ROOT / "projects"))
        assert os.path.exists(os.path.normpath(path.parent / link)), link


# --- what is shown first, and what is folded --------------------------------------------------------------------


def test_a_beginners_board_has_no_column_of_zeros(toured, page_of):
    page = page_of(tour.visit(toured))
    for column in ("functions written", "best, last time", "drills due"):
        assert column not in page
    assert "Nothing written yet. Begin with <code>nox -s practice -- mini</code>" in page


def test_three_figures_are_shown_and_the_others_folded(toured, page_of):
    stop = tour.visit(toured)
    stop.figures = [{**stop.figures[0], "key": f"f{i}"} for i in range(5)]
    shown, folded = page_of(stop).split("<details><summary>2 more figures</summary>")
    assert re.findall(r'id="mini-(f\d)"', shown) == ["f0", "f1", "f2"]
    assert re.findall(r'id="mini-(f\d)"', folded) == ["f3", "f4"]


def test_an_interactive_figure_is_one_of_the_three():
    shown = {project.name: tour.Stop(project).n_shown for project in PROJECTS}
    assert (shown["attention"], shown["training_loop"]) == (2, 3)


def test_every_table_is_folded(toured, page_of):
    stop = tour.visit(toured)
    stop.demo["tables"] = {"t": {"columns": ["a"], "rows": [["1"]], "caption": "Ones"}}
    stop.results = [RESULT | {"provenance": PROVENANCE}]
    page = page_of(stop)
    assert page.count("<table>") == 4  # the board, one of the demo and two of the result
    *_, folded = page.partition("<summary>What the demo measured: 1 table, 0 numbers</summary>")
    assert folded.count("<table>") == 3
    assert "<summary>Beside what you would use at work: 2 tables, a CPU</summary>" in folded


def test_the_headline_is_a_sentence(toured, page_of, monkeypatch):
    stop = tour.visit(toured)
    stop.results = [RESULT | {"provenance": PROVENANCE}]
    monkeypatch.setattr(
        tour, "read_toml", lambda path: {"mini": {"headline": ["softmax", "float64", "scipy"]}}
    )
    text = " ".join(re.sub(r"<[^>]+>", " ", page_of(stop)).split())
    said = "2.50&nbsp;× as fast as scipy softmax: float64, ▽ below the target of 3"
    assert text.count(said) == 2  # on the board and in its section
    assert 'class="below"' not in page_of(stop).partition("</section>")[0]


def test_what_moves_comes_first(toured, page_of):
    (toured.folder / "export.py").write_text(EXPORT)
    stop = tour.visit(toured)
    stop.reel = {"source": "data:,", "n_frames": 3}
    page = page_of(stop, groups={"DL": {"neurons": (False, ["mini"])}})
    assert re.findall(r'<section id="(\w+)"', page) == ["dream", "forming", "board", "topics", "mini"]
    assert re.findall(r'<li><a href="#(\w+)"', page.partition("</nav>")[0]) == [
        "dream",
        "forming",
        "board",
        "topics",
        "mini",
    ]

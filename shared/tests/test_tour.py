"""The tour: one page that needs no other file, whatever a demo does."""

import re

import pytest

from shared import tour

DEMO = """
import sys
sys.path.append({root!r})
import matplotlib
matplotlib.use("agg")
from matplotlib.figure import Figure
from shared.demo import Demo
demo = Demo(__file__)
demo.number("length", 5.0, ".1f", "length")
demo.table("t", ["a"], [["<b>&"]])
figure = Figure(figsize=(3, 2))
figure.subplots().plot([1, 4, 9])
demo.figure("squares", figure, alt="Squares rise", caption="Squares.")
demo.finish()
"""


@pytest.fixture
def toured(mini):
    from shared.projects import ROOT

    (mini.folder / "demo.py").write_text(DEMO.format(root=str(ROOT)))
    (mini.folder / "drills.toml").write_text("")
    return mini


def test_the_page_holds_everything_itself(toured):
    stop = tour.visit(toured)
    assert stop.error == ""
    page = tour.render([stop])
    assert 'alt="Squares rise"' in page
    assert "&lt;b&gt;&amp;" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise RuntimeError('no data')", "RuntimeError: no data"),
        ("pass", "is demo.finish() missing?"),
        ("exit(2)", "exit status 2"),
    ],
)
def test_a_demo_that_fails_is_shown_in_its_place(toured, source, says):
    tour.visit(toured)  # leaves a demo.json that must not be taken for the next run's
    (toured.folder / "demo.py").write_text(source)
    stop = tour.visit(toured)
    assert says in stop.error
    page = tour.render([stop])
    assert "The demo failed." in page
    assert 'class="failed"' in page


def test_one_failure_does_not_stop_the_others_but_fails_the_session(toured, monkeypatch, tmp_path, capsys):
    import dataclasses
    import shutil

    broken = shutil.copytree(toured.folder, tmp_path / "broken")
    (broken / "demo.py").write_text("raise RuntimeError('no data')")
    projects = [dataclasses.replace(toured, folder=broken), toured]
    monkeypatch.setattr(tour, "load_projects", lambda: projects)
    monkeypatch.setattr(tour, "ROOT", tmp_path)
    assert tour.main([]) == 1
    page = (tmp_path / "build" / "tour" / "index.html").read_text()
    assert "RuntimeError: no data" in page
    assert 'alt="Squares rise"' in page
    assert "broken: failed: RuntimeError: no data" in capsys.readouterr().out
    assert tour.main(["--project", "mini"]) == 0

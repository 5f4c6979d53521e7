"""The page around its figures, in a real Chromium: contents, panels, figures opened large, links, digits that form, the README's picture."""

import contextlib
import importlib.util
import io
from itertools import pairwise

import pytest
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from shared.practice.learner import Learner
from shared.practice.schedule import Schedule
from shared.projects import ROOT, load_project
from shared.tour import __main__ as tour
from shared.tour import browser, figures, picture

# Left half red, right half green, and ten pixels of blue at the left edge: the labels of the axis.
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 300" width="600pt" height="300pt">
<rect width="300" height="300" fill="red"/><rect x="300" width="300" height="300" fill="lime"/>
<rect width="60" height="300" fill="blue"/></svg>"""
PANELS = [[[0, 0.5]], [[0, 0.1], [0.5, 1]]]
NAMES = ("activations", "cross_entropy", "training_loop")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of three stops, where `nox -s tour` would write it."""
    folder = tmp_path_factory.mktemp("checkout")
    page = folder / "build" / "tour" / "index.html"
    page.parent.mkdir(parents=True)
    (folder / "two.svg").write_text(SVG)
    stops = [tour.Stop(load_project(ROOT / "projects" / name)) for name in NAMES]
    frames = [Image.new("L", (640, 64), grey) for grey in (0, 80, 160)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    stops[0].reel = figures.reel(folder / "a.gif")
    for stop in stops:
        stop.demo = {"numbers": {}, "tables": {}, "figures": {}}
        said = {"alt": "Red and green", "caption": "Two panels. They differ.", "panels": PANELS}
        figure = figures.figure(folder, "two", said)
        stop.figures = [{**figure, "key": f"two{i}"} for i in range(4)]
    rows = tour.board(stops, Learner(folder, Console(file=io.StringIO())), Schedule(folder))
    page.write_text(tour.render(rows, {}, page=page), encoding="utf-8")
    return page


@pytest.fixture
def look(chromium, path):
    with contextlib.ExitStack() as stack:
        yield lambda at=path, **place: stack.enter_context(browser.open_page(chromium, at, **place))


def colours(page, locator, places):
    """Return the colours of a screenshot at these places, from 0 to 1 across and in the middle of its height."""
    shot = Image.open(io.BytesIO(locator.screenshot())).convert("RGB")
    named = {(255, 0, 0): "red", (0, 255, 0): "lime", (0, 0, 255): "blue"}
    return [named.get(shot.getpixel((int(x * shot.width), shot.height // 2))) for x in places]


# --- figures ----------------------------------------------------------------------------------------------------


def test_on_a_phone_panels_stand_one_below_the_other(look):
    page = look(width=390)
    shown = page.locator("#activations-two0")
    assert shown.locator(":scope > img").is_hidden()
    first, second = (panel.bounding_box() for panel in shown.locator(".panel").all())
    assert second["y"] >= first["y"] + first["height"]
    assert max(box["x"] + box["width"] for box in (first, second)) <= 390
    assert first["width"] / first["height"] == pytest.approx(300 / 300, rel=0.02)
    assert second["width"] / second["height"] == pytest.approx(360 / 300, rel=0.02)
    assert colours(page, shown.locator(".panel").nth(0), [0.1, 0.3, 0.95]) == ["blue", "red", "red"]
    assert colours(page, shown.locator(".panel").nth(1), [0.1, 0.3, 0.95]) == ["blue", "lime", "lime"]
    assert shown.get_by_role("img", name="Red and green").count() == 1


def test_on_a_laptop_a_figure_is_whole_until_the_window_is_narrow(look):
    page = look()
    assert page.locator(".panels").count() == 0
    page.set_viewport_size({"width": 500, "height": 800})
    page.locator(".panels").first.wait_for()
    assert page.locator("#activations-two0 .panel").count() == 2
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator("#activations-two0 > img").is_visible()
    assert page.locator("#activations-two0 .panels").is_hidden()


@pytest.mark.parametrize("how", ["button", "picture", "keyboard"])
def test_a_figure_opens_large_and_closes_again(look, how):
    page = look(width=390)
    figure, dialog = page.locator("#activations-two0"), page.locator("#large")
    assert dialog.is_hidden()
    if how == "picture":
        figure.locator(".panel").first.tap()
    elif how == "button":
        figure.get_by_role("button", name="Enlarge: Two panels.").tap()
    else:
        figure.get_by_role("button").press("Enter")
    assert (
        dialog.get_by_role("img", name="Red and green").bounding_box()["width"] == 800
    )  # 600 pt: its own size
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    if how == "picture":
        dialog.get_by_role("img").tap(position={"x": 20, "y": 20})
    elif how == "button":
        dialog.get_by_role("button", name="Close").tap()
    else:
        page.keyboard.press("Escape")
    assert dialog.is_hidden()


@pytest.mark.parametrize("width", browser.WIDTHS)
def test_without_scripts_a_figure_fits_and_the_contents_can_be_opened(chromium, path, width):
    with chromium.new_page(viewport={"width": width, "height": 844}, java_script_enabled=False) as page:
        page.goto(path.as_uri())
        box = page.locator("#activations-two0 > img").bounding_box()
        assert box["width"] > 300
        assert box["x"] + box["width"] <= width
        page.locator("#contents summary").click()
        assert page.locator("#contents a").first.is_visible()
        assert page.get_by_text("This figure needs JavaScript").first.is_visible()


def test_a_link_to_a_folded_figure_unfolds_it(look):
    page = look()
    assert page.locator("#training_loop-two3").is_hidden()
    page.evaluate("location.hash = 'training_loop-two3'")
    page.locator("#training_loop-two3").wait_for()
    assert page.locator("#training_loop-two3").is_visible()


# --- the contents and the links ---------------------------------------------------------------------------------


def current(page):
    return page.locator("#contents a[aria-current=true]").all_inner_texts()


def test_on_a_laptop_the_contents_stand_beside_the_page_and_mark_where_one_is(look):
    page = look()
    box, main = page.locator("#contents ol").bounding_box(), page.locator("main").bounding_box()
    assert box["x"] + box["width"] <= main["x"]
    page.locator("#contents").get_by_text("training_loop").click()
    page.wait_for_function(
        "document.querySelector('#contents [aria-current=true]')?.textContent === 'training_loop'"
    )
    assert page.locator("#contents ol").is_visible()
    assert current(page) == ["training_loop"]


def test_on_a_phone_the_contents_are_a_bar_with_a_menu(look):
    page = look(width=390)
    menu, bar = page.locator("#contents ol"), page.locator("#contents summary")
    assert menu.is_hidden()
    assert bar.bounding_box()["height"] < 60
    bar.tap()
    page.locator("#contents").get_by_text("training_loop").tap()
    page.wait_for_function("document.getElementById('here').textContent === 'training_loop'")
    assert menu.is_hidden()
    assert bar.bounding_box()["y"] == pytest.approx(0, abs=1)
    page.wait_for_function("document.getElementById('training_loop').getBoundingClientRect().top < 90")
    assert page.locator("#training_loop").bounding_box()["y"] >= bar.bounding_box()["height"]
    bar.tap()
    page.keyboard.press("Escape")
    assert menu.is_hidden()


def test_files_are_links_only_where_the_tour_wrote_the_page(look, path, tmp_path):
    assert look().locator("a[href$='projects/training_loop/training_loop.py']").count() == 1
    mailed = tmp_path / "tour.html"
    mailed.write_bytes(path.read_bytes())
    page = look(mailed)
    assert (
        page.locator("a[href]").evaluate_all(
            "links => links.filter(a => !a.getAttribute('href').startsWith('#')).length"
        )
        == 0
    )
    page.locator("#training_loop").get_by_text("files", exact=False).last.click()
    assert page.get_by_text("training_loop.py", exact=True).is_visible()
    assert [fault for fault in browser.faults(page) if "not there" in fault] == []


# --- digits that form -------------------------------------------------------------------------------------------


def opened(chromium, path, motion):
    page = chromium.new_page(reduced_motion=motion, offline=True)
    page.clock.install(time=0)
    page.goto(path.as_uri())
    page.clock.pause_at(60_000)
    page.locator(".reel").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.reel').getBoundingClientRect().top < innerHeight")
    return page


def step_shown(page):
    """Return the step of the slider, having seen that the picture is that of the step."""
    grey = Image.open(io.BytesIO(page.locator(".reel").screenshot())).convert("L")
    step = int(page.locator("#forming-step").input_value())
    assert grey.getpixel((5, 5)) == pytest.approx(80 * step, abs=2)
    return step


def test_digits_form_again_and_again_until_somebody_takes_the_slider(chromium, path):
    with opened(chromium, path, "no-preference") as page:
        seen = set()
        for _ in range(20):  # the last of three frames rests for two seconds
            page.clock.run_for(250)
            seen.add(step_shown(page))
        assert seen == {0, 1, 2}
        page.locator("#forming-step").press("Home")
        page.clock.run_for(5000)
        assert step_shown(page) == 0
        page.get_by_role("button", name="Play").click()
        page.clock.run_for(300)
        assert step_shown(page) == 1


def test_digits_stand_still_for_who_asked_for_less_motion(chromium, path):
    with opened(chromium, path, "reduce") as page:
        page.clock.run_for(9000)
        assert step_shown(page) == 2
        page.get_by_role("button", name="Play").click()
        page.clock.run_for(2100)
        assert step_shown(page) == 0


# --- the picture of the README ----------------------------------------------------------------------------------


def test_the_readme_shows_the_playable_world(chromium, tmp_path):
    project = load_project(ROOT / "projects/diffusion_world_model")
    spec = importlib.util.spec_from_file_location("export", project.folder / "export.py")
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    weights = export.store(load_file(project.folder / "weights" / "catch.safetensors"))
    stop = tour.Stop(project, demo={"numbers": {}, "tables": {}, "figures": {}}, dream=weights)
    rows = tour.board([stop], Learner(tmp_path, Console(file=io.StringIO())), Schedule(tmp_path))
    page = tmp_path / "index.html"
    page.write_text(tour.render(rows, {}, page=page), encoding="utf-8")
    for name in ("a.gif", "b.gif"):
        picture.record(chromium, page, tmp_path / name)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    assert (tmp_path / "a.gif").stat().st_size < 300_000
    with Image.open(tmp_path / "a.gif") as moving:
        assert moving.n_frames == picture.N_FRAMES
        shots = []
        for i in range(moving.n_frames):
            moving.seek(i)
            shots.append(moving.convert("RGB").tobytes())
    assert all(one != other for one, other in pairwise(shots))


def test_a_tour_without_a_world_has_no_picture(monkeypatch, capsys):
    monkeypatch.setattr(tour, "lacking", lambda: "")
    monkeypatch.setattr(tour, "visit", lambda project: pytest.fail("a demo ran"))
    with pytest.raises(SystemExit):
        tour.main(["--project", "activations", "--picture", "world.gif"])
    assert "no project of this tour exports one" in capsys.readouterr().err

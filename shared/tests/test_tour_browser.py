"""The tour in a real Chromium: what a reader sees, what the figures compute, and that a broken page is found out."""

import contextlib
import importlib.util
import io
import re

import numpy as np
import pytest
import torch
from rich.console import Console

from shared.practice.learner import Learner
from shared.practice.schedule import Schedule
from shared.projects import ROOT, load_project
from shared.testing.checks import assert_close
from shared.tour import __main__ as tour
from shared.tour import browser, figures, tables

PLACES = [(width, scheme) for width in browser.WIDTHS for scheme in browser.SCHEMES]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 200" width="400pt" height="200pt">{}</svg>'
GROUND = '<rect width="400" height="200" style="fill: #ffffff"/>'
SOUND = SVG.format(f'{GROUND}<circle cx="90" cy="90" r="70" fill="teal"/><circle cx="350" cy="90" r="9"/>')
PANELS = [[[0, 0.5]], [[0, 0.1], [0.5, 1]]]
STOPS = (
    "activations",
    "diffusion_sampling",
    "cuda_matmul",
)  # those with a figure in play/; the dream: test_tour_dream.py
INTENSITIES = {"naive": 0.06, "tiled": 8.0, "wide": 32.0, "wider": 32.0}
NUMBERS = {f"intensity_{k}": {"value": v, "text": "", "label": ""} for k, v in INTENSITIES.items()}
COLOURS = re.findall(r"--(\w+): (#\w{6})", (ROOT / "shared/tour/page.css").read_text())
# of each name the first is light, the last dark
SCHEMES = {"light": dict(COLOURS[::-1]), "dark": dict(COLOURS)}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Return a function that writes a page of three made-up stops, changed by its arguments, and returns its path."""
    folder = tmp_path_factory.mktemp("practice")

    def write(*, svg=SOUND, alt="A dot", caption="Dots. Two of them.", replace=()):
        path = tmp_path_factory.mktemp("page") / "index.html"
        path.with_name("dot.svg").write_text(svg)
        stops = [tour.Stop(load_project(ROOT / "projects" / name)) for name in STOPS]
        for stop in stops:
            table = {"columns": ["a"] * 30, "rows": [["wide table"] * 30], "caption": "Wide"}
            stop.demo = {"numbers": NUMBERS, "tables": {"t": table}, "figures": {}}
            said = {"alt": alt, "caption": caption, "panels": PANELS}
            stop.figures = [figures.figure(path.parent, "dot", said)]
            stop.results = tables.read_results(stop.project)
        learner = Learner(folder, Console(file=io.StringIO()))
        rows = tour.board(stops, learner, Schedule(folder))
        groups = {"Some": {"roofline model": (False, ["cuda_matmul"]), "PPO basics": (True, [])}}
        page = tour.render(rows, groups, page=path)
        for old, new in replace:
            assert old in page
            page = page.replace(old, new)
        path.write_text(page, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def sound(build):
    return build()


@pytest.fixture
def look(chromium):
    """Return a function that opens a page, until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda path, **place: stack.enter_context(browser.open_page(chromium, path, **place))


@pytest.fixture
def page(look, sound):
    return look(sound)


# --- a sound page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), PLACES)
def test_a_sound_page_has_no_fault(look, sound, width, scheme):
    page = look(sound, width=width, scheme=scheme)
    assert browser.faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".play svg").count() == 4
    paper = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper')")
    assert paper == SCHEMES[scheme]["paper"]


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ground", ["paper", "card", "tint"])
@pytest.mark.parametrize("text", ["ink", "soft", "one", "two", "good", "bad"])
def test_text_has_the_contrast_of_wcag_aa(scheme, ground, text):
    dark, light = sorted(luminance(SCHEMES[scheme][name]) for name in (ground, text))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_nothing_moves_for_who_asked_for_less_motion(page):
    scrolling = "getComputedStyle(document.documentElement).scrollBehavior"
    assert page.evaluate(scrolling) == "smooth"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(scrolling) == "auto"


def test_the_focus_can_be_seen(page):
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# --- a broken page --------------------------------------------------------------------------------------------


def style(rule):
    return {"replace": [("</style>", f"{rule}</style>")]}


BROKEN = {
    "blank figure": ({"svg": SVG.format("")}, "is blank"),
    "figure of one colour": ({"svg": SVG.format(GROUND)}, "is blank"),
    "no image at all": ({"svg": "<svg"}, "cannot be decoded"),
    "hidden figure": ({"replace": [("</style>", ".shot img { display: none }</style>")]}, "is not visible"),
    "no alt text": ({"alt": " "}, "no alt text"),
    "console error": ({"replace": [("</main>", "</main><script>console.error('oh')</script>")]}, "oh"),
    "exception": ({"replace": [("</main>", "</main><script>missing()</script>")]}, "missing is not defined"),
    "exception in a figure": ({"replace": [("function entropyBits", "function other")]}, "entropyBits is not defined"),
    "exception at an end": ({"replace": [("sigma = 10 ** slider.value", "sigma = slider.value > 1 ? missing() : 1")]}, "missing is not defined"),
    "from the network": (
        {"replace": [("</main>", '</main><img alt="x" src="http://127.0.0.1:9/x.png">')]},
        "asks the network for http://127.0.0.1:9/x.png",
    ),
    "file that is not there": ({"replace": [("</main>", '</main><script src="no.js"></script>')]}, "no.js"),
    "wide table": ({"replace": [('<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>', "<div><table>")]}, "is wider than the page"),
    "wide table without a hint": (style(".scroll { background: none }"), "nothing hints that there is more at the side: Table"),
    "figure wider than the screen": (style(".panels { width: 40rem } main { overflow: hidden }"), "is cut at its right"),
    "small figure": ({"replace": [("point.after(button)", "point.after()")]}, "is small and cannot be enlarged"),
    "figure without a point": ({"caption": ""}, "does not say its point"),
    "drawing without a point": ({"replace": [("<h3>A temperature near 0 makes a softmax the argmax; a high one makes all classes alike</h3>", "")]}, "softmax-temperature does not say its point"),
    "glaring figure": ({"svg": SOUND.replace('style="fill: #ffffff"', 'fill="#ffffff"')}, "is glaring in the dark"),
    "small target": (style("main summary { display: block; height: 12px; overflow: hidden; padding: 0 }"), "too small to tap: "),
    "link to a missing file": ({"replace": [("<footer>", '<footer><a href="missing.md">x</a>')]}, "missing.md, which is not there"),
    "not in the contents": ({"replace": [('<li><a href="#cuda_matmul">', '<li><a href="#board">')]}, "the contents do not list cuda_matmul"),
    "contents that scroll away": (style("#contents { position: static }"), "the contents do not stay in view at board"),
    "contents over a heading": (style("[id] { scroll-margin-top: 0 }"), "the contents hide the top of board"),
    "dead slider": ({"replace": [('addEventListener("input"', 'addEventListener("nothing"')]}, "slider sigma changes nothing"),
    "blank drawing": ({"replace": [("svg.replaceChildren(", "void (")]}, "is blank"),
    "drawing that is cut": ({"replace": [('svg.setAttribute("height", height)', 'svg.setAttribute("height", 150)')]}, "is cut below"),
    "drawing without size": ({"replace": [("</style>", ".play svg { display: none }</style>")]}, "is not visible"),
    "not a number": ({"replace": [("function denoise(x, sigma) {", "function denoise(x, sigma) { return NaN;")]}, "has a NaN"),
    "not a number at an end": ({"replace": [("function denoise(x, sigma) {", "function denoise(x, sigma) { if (sigma > 9) return NaN;")]}, "sigma leads to a NaN"),
    "slider without a label": ({"replace": [('for="sigma">', 'for="other">'), ("</label>\n", "</p>\n")]}, "sigma has no label"),
    "one id twice": ({"replace": [("<footer>", '<footer id="board">')]}, "two elements have the id board"),
    "link to nowhere": ({"replace": [('href="#cuda_matmul"', 'href="#matmul"')]}, "leads to #matmul"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_page_is_found_out(look, build, changes, says):
    scheme = "dark" if "dark" in says else "light"
    found = browser.faults(look(build(**changes), width=390, scheme=scheme))
    assert any(says in fault for fault in found), found


def test_the_check_names_where_a_fault_is(chromium, build, monkeypatch, capsys):
    monkeypatch.setattr(browser, "browse", lambda: contextlib.nullcontext(chromium))
    path = build(alt="")
    assert browser.main([str(path)]) == 4 * 3
    *said, sum_of_all = capsys.readouterr().out.splitlines()
    assert said == [
        f"{width} px, {scheme}: a figure has no alt text" for width, scheme in PLACES for _ in STOPS
    ]
    assert sum_of_all.startswith(f"{path}: 12 faults in Chromium")


@pytest.mark.parametrize(("program", "says"), [(None, "no chromium"), ("chromium", "no playwright")])
def test_what_is_lacking_is_said(monkeypatch, capsys, program, says):
    monkeypatch.setattr(browser.shutil, "which", lambda name: program)
    monkeypatch.setattr(browser.importlib.util, "find_spec", lambda name: None)
    assert browser.main(["index.html"]) == 0
    assert f"NOT RUN: the page in a browser ({says}" in capsys.readouterr().out


# --- what the figures compute ---------------------------------------------------------------------------------


def test_softmax_is_the_softmax(page):
    logits = torch.tensor(page.evaluate("LOGITS"), dtype=torch.float64)
    for temperature in (0.01, 0.3, 1.0, 7.0, 100.0):
        mine = torch.tensor(page.evaluate("t => softmax(LOGITS, t)", temperature), dtype=torch.float64)
        assert_close(mine, torch.softmax(logits / temperature, -1))
        bits = page.evaluate("t => entropyBits(softmax(LOGITS, t))", temperature)
        assert bits == pytest.approx(float(torch.special.entr(mine).sum()) / np.log(2), abs=1e-12)


def test_temperature_goes_from_argmax_to_uniform(page):
    figure, slider = page.locator("#softmax-temperature"), page.locator("#temperature")
    heights = "bars => bars.map(bar => bar.height.baseVal.value)"
    slider.fill("-2")
    first, *others = figure.locator("rect").evaluate_all(heights)
    assert first > 150
    assert max(others) < 1e-6
    assert "argmax" in figure.locator("output").inner_text()
    slider.fill("2")
    bars = figure.locator("rect").evaluate_all(heights)
    assert max(bars) < 1.06 * min(bars)
    assert "nearly uniform" in figure.locator("output").inner_text()


def test_the_denoiser_is_the_exact_one_of_diffusion_sampling(page):
    spec = importlib.util.spec_from_file_location("exact", ROOT / "projects/diffusion_sampling/exact.py")
    exact = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exact)
    mixture = {k: torch.tensor(v, dtype=torch.float64) for k, v in page.evaluate("MIXTURE").items()}
    variances = mixture["deviations"].square()[:, None, None]
    oracle = exact.GaussianMixture(mixture["weights"], mixture["means"][:, None], variances)
    x = torch.linspace(-9, 9, 31, dtype=torch.float64)[:, None]
    here = "([xs, s]) => xs.map(x => [denoise(x, s), density(x, s), ...responsibilities(x, s)])"
    for sigma in (0.03, 0.4, 1.0, 5.0, 30.0):
        mine = torch.tensor(page.evaluate(here, [x[:, 0].tolist(), sigma]), dtype=torch.float64)
        torch.testing.assert_close(mine[:, :1], oracle.denoise(x, sigma), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(mine[:, 1], oracle.log_density(x, sigma).exp(), rtol=1e-9, atol=0)
        torch.testing.assert_close(mine[:, 2:], oracle.responsibilities(x, sigma), rtol=1e-9, atol=1e-15)


def test_the_denoiser_goes_from_the_nearest_mode_to_the_mean(page):
    mean, modes = page.evaluate("[MEAN, MIXTURE.means]")
    assert page.evaluate("MIXTURE.weights.reduce((a, b) => a + b)") == pytest.approx(1)
    assert page.evaluate("denoise(2.4, 0.03)") == pytest.approx(2.4, abs=0.02)
    assert page.evaluate("denoise(2, 0.2)") == pytest.approx(modes[2], abs=0.35)
    assert page.evaluate("denoise(2, 1000)") == pytest.approx(mean, abs=1e-4)


def test_the_roof_is_the_lesser_of_arithmetic_and_bandwidth(page):
    roof = "[2, 10, 50].map(i => attainable(i, {flops: 1e13, bytes: 1e12}))"
    assert page.evaluate(roof) == [2e12, 1e13, 1e13]


@pytest.mark.parametrize("how", ["hover", "tap", "focus"])
def test_a_point_says_its_bytes_and_flops(look, sound, how):
    page = look(sound, width=390 if how == "tap" else 1280)
    said, label = page.locator("#matmul-roofline output"), page.locator(".point text").nth(1)
    assert "Point at a kernel" in said.inner_text()
    if how == "focus":
        page.locator("#gpu").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
    else:
        getattr(label, how)()
    assert page.locator("tr.chosen td").first.inner_text() == "2 tiled"
    # 2·4096³ = 137 GFLOP; at 8 FLOP per byte 17.2 GB; the A100's 2.039 TB/s allow 16.3 TFLOP/s
    numbers = "tiled|137 GFLOP|17.2 GB|8 FLOP per byte|attainable, not measured: 16.3 TFLOP/s|8.43 ms"
    assert [part for part in numbers.split("|") if part not in said.inner_text()] == []


def test_kernels_at_one_place_share_a_point(page):
    assert page.locator(".point text").all_text_contents() == ["1", "2", "3–4", "◆"]


def test_another_roof_moves_the_points(page):
    before = page.locator(".point").first.inner_html()
    page.locator("#gpu").select_option("3")
    assert page.locator(".point").first.inner_html() != before
    assert page.get_by_text("bend: 101.0").is_visible()  # the L4: 30.3 TFLOP/s over 0.3 TB/s


def test_a_measured_roof_shows_measured_speeds(look, build, monkeypatch):
    roof = {"name": "made up", "flops": 1e13, "bytes": 1e12, "source": "measured", "size": 4096}
    roof["speeds"] = {"naive": 2e11, "tiled": 3e12, "wide": 6e12, "wider": 9e12}
    made_up = tables.roofline

    def measured(project, demo):
        data = made_up(project, demo)
        return {**data, "gpus": [roof, *data["gpus"]]}

    monkeypatch.setattr(tables, "roofline", measured)
    page = look(build())
    cells = page.locator("#matmul-roofline tr > :nth-child(4)")
    assert cells.all_inner_texts() == ["measured", "200 GFLOP/s", "3 TFLOP/s", "6 TFLOP/s", "9 TFLOP/s"]
    page.locator("#size").press("ArrowLeft")  # another size was not measured
    assert cells.all_inner_texts()[:3] == ["attainable, not measured", "60 GFLOP/s", "8 TFLOP/s"]

"""The tour in a real Chromium: what a reader sees, what the figures compute, and that a broken page is found out."""

import importlib.util
import io
import json
import os
import sys
import time

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from shared import tour, tour_browser
from shared.testing.checks import assert_close
from shared.practice.learner import Practice
from shared.projects import ROOT, load_project
from shared.practice.schedule import Reviews

BROWSER = tour_browser.find_browser()
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")
PLACES = [(width, scheme) for width in tour_browser.WIDTHS for scheme in tour_browser.SCHEMES]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 200" width="400" height="200">{}</svg>'
SOUND = SVG.format('<circle cx="90" cy="90" r="70" fill="teal"/>')
STOPS = ("activations", "diffusion_sampling", "cuda_matmul")  # those with an interactive figure


def figure(folder, svg, alt="A dot"):
    path = folder / "figure.svg"
    path.write_text(svg)
    return {"key": "dot", "alt": alt, "caption": "A caption.", "source": tour.data_uri(path)}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Return a function that writes a page of three made-up stops, changed by its arguments, and returns its path."""
    learner = tmp_path_factory.mktemp("practice")

    def write(*, svg=SOUND, alt="A dot", replace=(), change=lambda stops: None):
        folder = tmp_path_factory.mktemp("page")
        stops = [tour.Stop(load_project(ROOT / "projects" / name)) for name in STOPS]
        for stop in stops:
            table = {"columns": ["a"] * 30, "rows": [["wide table"] * 30], "caption": "Wide"}
            number = {"value": 0.5, "text": "0.5", "label": "half"}
            stop.demo = {"numbers": {"intensity_tiled": number}, "tables": {"t": table}, "figures": {}}
            stop.figures = [figure(folder, svg, alt)]
            stop.results = tour.tour_tables.read_results(stop.project)
        change(stops)
        practice = Practice(learner, Console(file=io.StringIO()))
        path = folder / "index.html"
        groups = {"Some": {"roofline model": (False, ["cuda_matmul"]), "PPO basics": (True, [])}}
        page = tour.render(tour.board(stops, practice, Reviews(learner / "drills.json")), groups, page=path)
        for old, new in replace:
            assert old in page
            page = page.replace(old, new)
        path.write_text(page, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def page():
    assert BROWSER
    with tour_browser.browse(BROWSER) as page:
        yield page


@pytest.fixture(scope="module")
def sound(build):
    return build()


# --- a sound page ---------------------------------------------------------------------------------------------


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), PLACES)
def test_a_sound_page_has_no_fault(page, sound, width, scheme):
    page.open(sound, width=width, scheme=scheme)
    assert tour_browser.faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelectorAll('.play svg').length") == 3
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@needs_browser
@pytest.mark.parametrize("scheme", tour_browser.SCHEMES)
def test_text_has_the_contrast_of_wcag_aa(page, sound, scheme):
    page.open(sound, scheme=scheme)
    look = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    colours = {
        name: page.evaluate(look.format(name)) for name in "ink soft one two good bad paper card tint".split()
    }
    for ground in ("paper", "card", "tint"):
        for text in ("ink", "soft", "one", "two", "good", "bad"):
            light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {ground}, {scheme}"


@needs_browser
def test_nothing_moves_for_who_asked_for_less_motion(page, sound):
    page.open(sound)
    scrolling = "getComputedStyle(document.documentElement).scrollBehavior"
    assert page.evaluate(scrolling) == "smooth"
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert page.evaluate(scrolling) == "auto"


@needs_browser
def test_the_focus_can_be_seen(page, sound):
    page.open(sound)
    page.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@needs_browser
def test_the_board_can_be_had_as_a_picture(page, sound):
    page.open(sound)
    picture = imread(io.BytesIO(page.picture_of("#board")))
    assert picture.shape[1] > 800
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


# --- a broken page --------------------------------------------------------------------------------------------

BROKEN = {
    "blank figure": ({"svg": SVG.format("")}, "is blank"),
    "figure of one colour": ({"svg": SVG.format('<rect width="400" height="200" fill="#fff"/>')}, "is blank"),
    "no image at all": ({"svg": "<svg"}, "cannot be decoded"),
    "hidden figure": ({"replace": [("</style>", "figure img { display: none }</style>")]}, "is not visible"),
    "no alt text": ({"alt": " "}, "no alt text"),
    "console error": ({"replace": [("</main>", "</main><script>console.error('oh')</script>")]}, "oh"),
    "exception": ({"replace": [("</main>", "</main><script>missing()</script>")]}, "missing is not defined"),
    "exception in a figure": ({"replace": [("function entropyBits", "function other")]}, "entropyBits is not defined"),
    "from the network": (
        {"replace": [("</main>", '</main><img alt="x" src="http://127.0.0.1:9/x.png">')]},
        "asks the network for http://127.0.0.1:9/x.png",
    ),
    "file that is not there": ({"replace": [("</main>", '</main><script src="no.js"></script>')]}, "no.js"),
    "wide table": ({"replace": [('<div class="scroll"><table>', "<div><table>")]}, "is wider than the page"),
    "dead slider": ({"replace": [('addEventListener("input"', 'addEventListener("nothing"')]}, "slider sigma changes nothing"),
    "blank drawing": ({"replace": [("svg.replaceChildren(", "void (")]}, "is blank"),
    "drawing without size": ({"replace": [("</style>", ".play svg { display: none }</style>")]}, "is not visible"),
    "not a number": ({"replace": [("function denoise(x, sigma) {", "function denoise(x, sigma) { return NaN;")]}, "NaN"),
    "slider without a label": ({"replace": [('for="sigma">', 'for="other">'), ("</label>\n", "</p>\n")]}, "sigma has no label"),
    "link to nowhere": ({"replace": [('href="#cuda_matmul"', 'href="#matmul"')]}, "leads to #matmul"),
}  # fmt: skip


@needs_browser
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_page_is_found_out(page, build, name):
    changes, says = BROKEN[name]
    page.open(build(**changes), width=390)
    found = tour_browser.faults(page)
    assert any(says in fault for fault in found), found


# --- what the figures compute ---------------------------------------------------------------------------------


@needs_browser
def test_softmax_is_the_softmax(page, sound):
    page.open(sound)
    logits = torch.tensor(page.evaluate("LOGITS"), dtype=torch.float64)
    for temperature in (0.01, 0.3, 1.0, 7.0, 100.0):
        mine = torch.tensor(page.evaluate(f"softmax(LOGITS, {temperature})"), dtype=torch.float64)
        assert_close(mine, torch.softmax(logits / temperature, -1))
        bits = page.evaluate(f"entropyBits(softmax(LOGITS, {temperature}))")
        assert bits == pytest.approx(float(torch.special.entr(mine).sum()) / np.log(2), abs=1e-12)


@needs_browser
def test_temperature_goes_from_argmax_to_uniform(page, sound):
    page.open(sound)
    said = "document.querySelector('#softmax-temperature output').textContent"
    heights = "[...document.querySelectorAll('#softmax-temperature rect')].map(e => e.height.baseVal.value)"
    move = "(e => { e.value = %s; e.dispatchEvent(new Event('input', {bubbles: true})) })(temperature)"
    page.evaluate(move % "-2")
    assert "argmax" in page.evaluate(said)
    first, *others = page.evaluate(heights)
    assert first > 150
    assert max(others) < 1e-6
    page.evaluate(move % "2")
    bars = page.evaluate(heights)
    assert "nearly uniform" in page.evaluate(said)
    assert max(bars) < 1.06 * min(bars)


@needs_browser
def test_the_denoiser_is_the_exact_one_of_diffusion_sampling(page, sound):
    spec = importlib.util.spec_from_file_location("exact", ROOT / "projects/diffusion_sampling/exact.py")
    exact = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exact)
    page.open(sound)
    mixture = {k: torch.tensor(v, dtype=torch.float64) for k, v in page.evaluate("MIXTURE").items()}
    variances = mixture["deviations"].square()[:, None, None]
    oracle = exact.GaussianMixture(mixture["weights"], mixture["means"][:, None], variances)
    x = torch.linspace(-9, 9, 31, dtype=torch.float64)[:, None]
    for sigma in (0.03, 0.4, 1.0, 5.0, 30.0):
        here = f"{json.dumps(x[:, 0].tolist())}.map(x => [denoise(x, {sigma}), density(x, {sigma}), ...responsibilities(x, {sigma})])"
        mine = torch.tensor(page.evaluate(here), dtype=torch.float64)
        torch.testing.assert_close(mine[:, :1], oracle.denoise(x, sigma), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(mine[:, 1], oracle.log_density(x, sigma).exp(), rtol=1e-9, atol=0)
        torch.testing.assert_close(mine[:, 2:], oracle.responsibilities(x, sigma), rtol=1e-9, atol=1e-15)


@needs_browser
def test_the_denoiser_goes_from_the_nearest_mode_to_the_mean(page, sound):
    page.open(sound)
    mean, modes = page.evaluate("MEAN"), page.evaluate("MIXTURE.means")
    assert page.evaluate("MIXTURE.weights.reduce((a, b) => a + b)") == pytest.approx(1)
    assert page.evaluate("denoise(2.4, 0.03)") == pytest.approx(2.4, abs=0.02)
    assert page.evaluate("denoise(2, 0.2)") == pytest.approx(modes[2], abs=0.35)
    assert page.evaluate("denoise(2, 1000)") == pytest.approx(mean, abs=1e-4)


ROOF = {"name": "made up", "flops": 1e13, "bytes": 1e12, "source": "measured", "size": 4096}


def with_kernels(stops):
    numbers = {"naive": 0.06, "tiled": 8.0, "wide": 32.0, "wider": 32.0}
    stops[2].demo["numbers"] = {
        f"intensity_{name}": {"value": value, "text": "", "label": ""} for name, value in numbers.items()
    }


@pytest.fixture(scope="module")
def roofline(build):
    return build(change=with_kernels)


@needs_browser
def test_the_roof_is_the_lesser_of_arithmetic_and_bandwidth(page, roofline):
    page.open(roofline)
    gpu = "{flops: 1e13, bytes: 1e12}"
    assert page.evaluate(f"[2, 10, 50].map(i => attainable(i, {gpu}))") == [2e12, 1e13, 1e13]


POINT = "#matmul-roofline .point:nth-of-type(2)"
SAID = "document.querySelector('#matmul-roofline output').textContent"


def assert_tiled_is_described(page):
    said = page.evaluate(SAID)
    # 2·4096³ = 137 GFLOP; at 8 FLOP per byte 17.2 GB; the A100's 2.039 TB/s allow 16.3 TFLOP/s
    for part in (
        "tiled",
        "137 GFLOP",
        "17.2 GB",
        "8 FLOP per byte",
        "attainable, not measured: 16.3 TFLOP/s",
        "8.43 ms",
    ):
        assert part in said
    assert page.evaluate("document.querySelector('tr.chosen').cells[0].textContent") == "2 tiled"


@needs_browser
@pytest.mark.parametrize("how", ["hover", "tap", "focus"])
def test_a_point_says_its_bytes_and_flops(page, roofline, how):
    page.open(roofline, width=390 if how == "tap" else 1280)
    page.evaluate("document.querySelector('#matmul-roofline').scrollIntoView({behavior: 'instant'})")
    page.settle()
    assert "Point at a kernel" in page.evaluate(SAID)
    if how == "focus":
        page.evaluate("document.querySelector('#gpu').focus()")
        page.press("Tab")
        page.press("Tab")
    else:
        box = f"(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('{POINT} rect').getBoundingClientRect())"
        x, y = page.evaluate(box)
        if how == "hover":
            page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        else:
            page.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
            page.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        page.settle()
        time.sleep(0.1)  # a tap becomes a click a moment later
    assert_tiled_is_described(page)


@needs_browser
def test_kernels_at_one_place_share_a_point(page, roofline):
    page.open(roofline)
    labels = page.evaluate("[...document.querySelectorAll('.point text')].map(e => e.textContent)")
    assert labels == ["1", "2", "3–4", "◆"]


@needs_browser
def test_another_roof_moves_the_points(page, roofline):
    page.open(roofline)
    drawing = "document.querySelector('#matmul-roofline svg').innerHTML"
    before = page.evaluate(drawing)
    choose = "(e => { e.value = 3; e.dispatchEvent(new Event('input', {bubbles: true})) })(gpu)"
    page.evaluate(choose)
    assert page.evaluate(drawing) != before
    assert "bend: 101.0" in page.evaluate(drawing)  # the L4: 30.3 TFLOP/s over 0.3 TB/s


@needs_browser
def test_a_measured_roof_shows_measured_speeds(page, build, monkeypatch):
    speeds = {"naive": 2e11, "tiled": 3e12, "wide": 6e12, "wider": 9e12}
    made_up = tour.tour_tables.roofline

    def measured(project, demo):
        data = made_up(project, demo)
        return {**data, "gpus": [{**ROOF, "speeds": speeds}, *data["gpus"]]}

    monkeypatch.setattr(tour.tour_tables, "roofline", measured)
    page.open(build(change=with_kernels))
    cells = "[...document.querySelectorAll('#matmul-roofline tr')].map(row => row.cells[3].textContent)"
    assert page.evaluate(cells) == ["measured", "200 GFLOP/s", "3 TFLOP/s", "6 TFLOP/s", "9 TFLOP/s"]
    page.evaluate("document.getElementById('size').focus()")
    page.press("ArrowLeft")  # another size was not measured
    assert page.evaluate(cells)[:3] == ["attainable, not measured", "60 GFLOP/s", "8 TFLOP/s"]


# --- the browser itself ---------------------------------------------------------------------------------------


@needs_browser
def test_the_check_names_where_a_fault_is(build, capsys):
    said = []
    assert tour_browser.check(build(alt=""), BROWSER, said.append) == 4 * 3
    assert said[0] == "1280 px, light: a figure has no alt text"
    assert {line.split(":")[0] for line in said} == {f"{width} px, {scheme}" for width, scheme in PLACES}


def test_without_a_browser_the_check_is_not_run_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(tour_browser, "find_browser", lambda: None)
    assert tour_browser.main(["index.html"]) == 0
    assert "NOT RUN" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="the browser pipe needs POSIX")
def test_a_browser_that_ends_or_says_nothing_is_no_endless_wait(tmp_path, monkeypatch):
    with pytest.raises(ConnectionError, match="ended before it answered"), tour_browser.browse("/bin/false"):
        pass
    mute = tmp_path / "mute"
    mute.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    mute.chmod(0o755)
    monkeypatch.setattr(tour_browser, "ANSWER_LIMIT_S", 0.2)
    with pytest.raises(TimeoutError, match="did not answer Target"), tour_browser.browse(str(mute)):
        pass

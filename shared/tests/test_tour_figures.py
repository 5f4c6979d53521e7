"""The figures of the demos on the page: their second set of colours, their panels, and the digits that form."""

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from shared.measuring import panels
from shared.projects import ROOT
from shared.tour import figures

SVGS = sorted(ROOT.glob("projects/*/results/*.svg"))
CSS = (ROOT / "shared/tour/page.css").read_text()


def svg_of(figure):
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        figure.savefig(file, format="svg", bbox_inches="tight")
    return file.getvalue()


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


# --- colours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SVGS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_colour_of_a_committed_figure_has_a_dark_one(path):
    said = set(re.findall(r"(?:fill|stroke|stop-color|color)[:=] ?\"?([#a-z][^;\"]*)", path.read_text()))
    assert said - {"none", "evenodd"} <= figures.DARK.keys(), "add it to DARK in shared/tour/figures.py"


@pytest.mark.parametrize("light", ["#000000", "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#542788", "#666666", "#7f7f7f"])  # fmt: skip
def test_words_and_lines_can_be_read_in_the_dark(light):
    assert contrast(figures.DARK[light], figures.DARK["#ffffff"]) >= 4.5


@pytest.mark.parametrize("pale", ["#dbe9f4", "#cfe8df", "#f6dcc8"])
def test_words_on_a_pale_fill_can_be_read_in_the_dark(pale):
    assert contrast(figures.DARK["#000000"], figures.DARK[pale]) >= 4.5


def test_paper_and_ink_are_those_of_the_page():
    dark = CSS.partition("prefers-color-scheme: dark")[2]
    assert f"--card: {figures.DARK['#ffffff']}" in dark
    assert f"--ink: {figures.DARK['#000000']}" in dark


def test_a_light_screen_sees_the_same_colours():
    svg = '<svg a="b"><path style="fill: #ffffff; stroke: #123456"/></svg>'
    dark = figures.with_dark_colours(svg)
    assert 'style="fill: var(--ffffff, #ffffff); stroke: #123456"' in dark
    assert re.sub(r"<style>.*</style>|var\(--\w+, (#\w+)\)", r"\1", dark) == svg
    assert dark.count("--ffffff: #171d26;") == 1


def test_words_on_a_picture_keep_their_colour_as_the_picture_does():
    figure = Figure(figsize=(3, 3))
    axes = figure.subplots()
    axes.imshow([[0, 1], [1, 0]], cmap="Blues")
    axes.text(0, 0, "on it", color="black")
    axes.text(1, 1, "on it", color="#d55e00")
    axes.set_title("above it", color="#d55e00")
    svg = figures.with_dark_colours(svg_of(figure))
    colours = dict(re.findall(r"<!-- ([a-z ]+) -->\s*<g style=\"fill: ([^\"]*?)\"", svg))
    assert colours == {"on it": "rgb(213, 94, 0)", "above it": "var(--d55e00, #d55e00)"}
    assert svg.count('fill: rgb(0, 0, 0)"') == 1


# --- the point, the size, the panels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "point", "rest"),
    [
        ("One. Two. Three.", "One.", "Two. Three."),
        ("At ε = 0.2 it is flat.", "At ε = 0.2 it is flat.", ""),
        ("Is it? It is.", "Is it?", "It is."),
        ("", "", ""),
    ],
)
def test_the_first_sentence_of_a_caption_is_the_point(caption, point, rest):
    assert figures.split_point(caption) == (point, rest)


def test_the_size_is_in_pixels_where_the_file_says_points():
    assert figures.size_px('<svg width="72pt" viewBox="0 0 1 1" height="36pt">') == (96, 48)
    assert figures.size_px('<svg width="72" height="36">') is None
    assert figures.size_px("no svg") is None


def test_panels_side_by_side_are_cut_between_them():
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set_ylabel("of the left one")
    right.set_ylabel("of the right one")
    svg_of(figure)
    ((first, last),) = (panels.panels(figure),)
    assert first == [(0.0, last[0][0])]
    assert last[0][1] == 1.0
    # the cut lies between the left axes and the label of the right ones
    tight = figure.get_tightbbox()
    cut = (last[0][0] * (tight.width + 0.2) + tight.x0 - 0.1) * figure.dpi
    assert left.get_window_extent().x1 < cut < right.yaxis.label.get_window_extent().x0


def test_a_panel_without_labels_gets_those_of_the_first():
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot([1, 9])
    right.plot([9, 1])
    svg_of(figure)
    (whole,), (labels, panel) = panels.panels(figure)
    assert labels[0] == 0.0
    assert labels[1] < 0.2
    assert whole[1] == panel[0]


@pytest.mark.parametrize(
    ("size", "shape", "words"), [((8, 3), (1, 1), ""), ((8, 6), (2, 1), ""), ((8, 3), (2, 8), ""), ((8, 3), (1, 2), "over all")]
)  # fmt: skip
def test_one_column_a_row_of_pictures_and_words_over_all_stay_whole(size, shape, words):
    figure = Figure(figsize=size, layout="constrained")
    figure.subplots(*shape)
    if words:
        figure.suptitle(words)
    svg_of(figure)
    assert panels.panels(figure) == []


# --- digits that form -------------------------------------------------------------------------------------------


def test_ten_digits_stand_in_two_rows_a_frame_above_the_next(tmp_path):
    ramp = np.repeat(np.arange(10, dtype=np.uint8)[None, :] * 20, 64, axis=0).repeat(64, axis=1)
    first, last = Image.fromarray(ramp), Image.fromarray(ramp + 10)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[last])
    reel = figures.reel(tmp_path / "a.gif")
    assert reel["n_frames"] == 2
    strip = np.array(Image.open(io.BytesIO(base64.b64decode(reel["source"].partition(",")[2]))))
    assert strip.shape == (40, 48)
    for frame, plus in ((strip[:20], 0), (strip[20:], 10)):
        corners = frame[[0, 10]][:, ::10]
        np.testing.assert_array_equal(corners, np.arange(10).reshape(2, 5) * 20 + plus)
        assert (frame[[8, 9, 18, 19]] == 255).all()  # gaps


def test_without_an_animation_nothing_forms(tmp_path):
    assert figures.reel(tmp_path / "missing.gif") is None

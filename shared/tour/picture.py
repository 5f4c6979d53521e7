"""The picture of the README: the real game and the dream of it, as they move on the page. It takes a browser and Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from playwright.sync_api import Browser, FloatRect

N_FRAMES, FRAME_MS, REST_MS = 31, 330, 1000  # three games of ten frames, and the first frame of a fourth
N_COLOURS = 64
WIDTH, SCALE = 390, 2  # of a phone, which shows it as it is
MARGIN = 12  # around the drawing, of the ground that it lies on

# The seed makes it the same on every run. The contents would lie above the figure.
START = """async () => {
  document.getElementById("contents").remove();
  dreamFigure.pause(true);
  while (dreamFigure.busy) await new Promise(resolve => setTimeout(resolve, 10));
  dreamFigure.random = mulberry32(3);
  dreamFigure.restart();
}"""
BOX = """() => {
  const { x, y, width, height } = document.querySelector("#playable-dream svg").getBoundingClientRect();
  return [x, y, width, height];
}"""


def record(browser: Browser, page: Path, target: Path) -> None:
    """Write an animated GIF of the playable world of a page, as the agent plays three games of it."""
    from PIL import Image

    with browser.new_page(
        viewport={"width": WIDTH, "height": 844}, device_scale_factor=SCALE, color_scheme="dark", offline=True
    ) as view:
        view.goto(page.resolve().as_uri())
        view.locator("#playable-dream svg").scroll_into_view_if_needed()
        view.evaluate(START)
        x, y, width, height = view.evaluate(BOX)
        clip: FloatRect = {
            "x": x - MARGIN, "y": y - MARGIN, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN,
        }  # fmt: skip
        frames, rests = [], []
        for _ in range(N_FRAMES):
            frames.append(Image.open(io.BytesIO(view.screenshot(clip=clip))).convert("RGB"))
            rests.append(REST_MS if view.evaluate("dreamFigure.beside.ended") else FRAME_MS)
            view.evaluate("dreamFigure.advance()")
    write_gif(frames, rests, target)


def write_gif(frames: list[Image], rests_ms: list[int], target: Path) -> None:
    """Write frames as a GIF that repeats, all with the colours of the last one, so that nothing flickers."""
    from PIL import Image

    palette = frames[-1].quantize(N_COLOURS)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    drawn[0].save(target, save_all=True, append_images=drawn[1:], duration=rests_ms, loop=0, optimize=True)

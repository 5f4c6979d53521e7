"""The figures of the demos as the page shows them: dark where the reader's screen is, and their point before all else."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

# What each colour of a light figure becomes on a dark page. Pixels (digits, frames, heat maps) keep theirs.
DARK = {
    "#ffffff": "#171d26",  # paper: --card of page.css
    "#000000": "#e5e9ef",  # ink: --ink
    "#f2f2f2": "#202833",  # tints
    "#e8e8e8": "#2d3644",
    "#cfd4da": "#3b4657",  # contours
    "#cccccc": "#465162",  # frames of legends, and grids
    "#b0b0b0": "#465162",
    "#bbbbbb": "#5a6678",
    "#7f7f7f": "#98a3b1",  # grey lines and words
    "#666666": "#a3aebd",
    "#555555": "#a3aebd",
    "#444444": "#b4bdc9",
    "#0072b2": "#56b4f5",  # the palette for the colour-blind, lighter
    "#d55e00": "#ff8a3d",
    "#009e73": "#2fc79b",
    "#e69f00": "#f0b429",
    "#cc79a7": "#e08fbc",
    "#56b4e9": "#8fd0ff",
    "#9ecae1": "#3a6d8c",
    "#542788": "#b08be0",
    "#a9c9e0": "#4f7a99",  # pale fills, which words stand on
    "#f0bd9a": "#a66a40",
    "#dbe9f4": "#223a50",
    "#cfe8df": "#1d4034",
    "#f6dcc8": "#4d3320",
}
PAINT = re.compile(r"(?<=: )#[0-9a-f]{6}\b")  # as in style="fill: #ffffff"
WORDS = re.compile(
    r'<g (?:style="fill: (#[0-9a-f]{6})[^"]*" )?(?=transform="translate\(([-\d.]+) ([-\d.]+)\) scale\()'
)
PICTURE = re.compile(
    r'<image [^>]*?translate\(0 -([\d.]+)\)" x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height='
)


def figure(folder: Path, key: str, said: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of one figure of a demo's build folder."""
    svg = (folder / f"{key}.svg").read_text(encoding="utf-8")
    point, rest = split_point(said["caption"])
    return {
        "key": key,
        "alt": said["alt"],
        "point": point,
        "rest": rest,
        "panels": said.get("panels", []),
        "size": size_px(svg),
        "source": data_uri("image/svg+xml", with_dark_colours(svg).encode()),
    }


def split_point(caption: str) -> tuple[str, str]:
    """Return the first sentence of a caption, which is the figure's point, and what else it says."""
    point, *rest = re.split(r"(?<=[.?!])\s+(?=\S)", caption, maxsplit=1)
    return point, "".join(rest)


def size_px(svg: str) -> tuple[int, int] | None:
    """Return width and height of a figure in CSS pixels, as matplotlib writes them: in points."""
    tag = re.search(r"<svg[^>]*", svg)
    found = {
        name: float(points)
        for name, points in re.findall(r'(width|height)="([\d.]+)pt"', tag[0] if tag else "")
    }
    return (round(found["width"] * 4 / 3), round(found["height"] * 4 / 3)) if len(found) == 2 else None


def with_dark_colours(svg: str) -> str:
    """Give a figure a second set of colours, for who has a dark screen: the browser chooses, without a script."""
    svg = keep_words_on_pictures(svg)
    used = sorted(DARK.keys() & set(PAINT.findall(svg)))
    named = PAINT.sub(
        lambda paint: f"var(--{paint[0][1:]}, {paint[0]})" if paint[0] in DARK else paint[0], svg
    )
    dark = "".join(f"--{light[1:]}: {DARK[light]}; " for light in used)
    style = (
        f"<style>@media (prefers-color-scheme: dark) {{ svg {{ {dark}fill: {DARK['#000000']} }} "
        "image { opacity: .8 } }</style>"
    )
    return re.sub(r"<svg\b[^>]*[^/]>", lambda tag: tag[0] + style, named, count=1)


def keep_words_on_pictures(svg: str) -> str:
    """Fix the colour of words that stand on pixels, as pixels keep theirs: written in another way, which is not replaced."""
    pictures = [tuple(map(float, found)) for found in PICTURE.findall(svg)]

    def fix(words: re.Match[str]) -> str:
        x, y = float(words[2]), float(words[3])
        for height, left, top, width in pictures:  # a picture is drawn upside down, from -top
            if left <= x <= left + width and -top <= y <= height - top:
                return f'<g style="fill: rgb{tuple(bytes.fromhex((words[1] or "#000000")[1:]))}" '
        return words[0]

    return WORDS.sub(fix, svg)


def data_uri(kind: str, content: bytes) -> str:
    """Return a file as a data URI, so that the page needs no other file."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def reel(gif: Path) -> dict[str, Any] | None:
    """Return the frames of an animation of ten digits side by side as one picture, a frame above the next; None without one.

    Each frame becomes two rows of five digits of 8 × 8 pixels, so that a phone shows them large.
    """
    if not gif.exists():
        return None
    from PIL import Image, ImageSequence

    side, gap = 8, 2
    width, height = 5 * side + 4 * gap, 2 * side + 2 * gap  # of a frame, with a gap to the next one
    with Image.open(gif) as animation:
        frames = [
            frame.convert("L").resize((10 * side, side), Image.Resampling.NEAREST)
            for frame in ImageSequence.Iterator(animation)
        ]
    strip = Image.new("L", (width, height * len(frames)), 255)
    for i, frame in enumerate(frames):
        for digit in range(10):
            picture = frame.crop((digit * side, 0, (digit + 1) * side, side))
            strip.paste(picture, (digit % 5 * (side + gap), i * height + digit // 5 * (side + gap)))
    png = io.BytesIO()
    strip.save(png, "PNG")
    return {"source": data_uri("image/png", png.getvalue()), "n_frames": len(frames)}

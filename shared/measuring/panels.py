"""Where a figure may be cut so that a narrow screen can show its columns one below the other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Span = tuple[float, float]
PAD_INCHES = 0.1  # what savefig leaves around a tight figure
LEAST_INCHES = 1.8  # of a panel: a narrower one is a picture in a row of pictures, which stays whole


def panels(figure: Figure) -> list[list[Span]]:
    """Return the columns of a saved figure as ranges of its width from 0 to 1, none where it must stay whole.

    A column that shares the vertical axis of the first one has two ranges: the labels of that axis, then itself.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    tight = figure.get_tightbbox(renderer)
    left, width = tight.x0 - PAD_INCHES, tight.width + 2 * PAD_INCHES

    def share(pixels: float) -> float:
        return (pixels / figure.dpi - left) / width

    drawn = [axes for axes in figure.axes if axes.get_visible()]
    boxes = [artist.get_tightbbox(renderer) for artist in (*drawn, *figure.texts, *figure.legends)]
    spans = [(share(box.x0), share(box.x1)) for box in boxes if box is not None and box.width > 0]
    columns = widened(merged(spans))
    if len(columns) < 2 or any((end - start) * width < LEAST_INCHES for start, end in columns):
        return []
    placed = [(share(axes.get_window_extent(renderer).x0), axes) for axes in drawn]
    inside = [[axes for x, axes in placed if start <= x < end] for start, end in columns]
    labels = (0.0, round(min(x for x, axes in placed if axes in inside[0]), 4))
    return [
        [labels, column] if i and is_labelled_by(inside[0], inside[i]) else [column]
        for i, column in enumerate(columns)
    ]


def merged(spans: Sequence[Span]) -> list[Span]:
    """Join the ranges that overlap."""
    columns: list[Span] = []
    for start, end in sorted(spans):
        if columns and start < columns[-1][1]:
            columns[-1] = (columns[-1][0], max(end, columns[-1][1]))
        else:
            columns.append((start, end))
    return columns


def widened(columns: Sequence[Span]) -> list[Span]:
    """Let each column reach to the middle of the gap between it and the next, and the outer ones to the edges."""
    gaps = [(left[1] + right[0]) / 2 for left, right in itertools.pairwise(columns)]
    cuts = [0.0, *(round(gap, 4) for gap in gaps), 1.0]
    return list(itertools.pairwise(cuts))


def is_labelled_by(first: Sequence[Axes], others: Sequence[Axes]) -> bool:
    """Say whether these axes have no labels on the left, since those of the first column are theirs too."""
    shared = all(any(a.get_shared_y_axes().joined(a, b) for a in first) for b in others)
    return shared and has_labels(first) and not has_labels(others)


def has_labels(some: Sequence[Axes]) -> bool:
    """Say whether numbers stand on the left of one of them."""
    return any(label.get_visible() for axes in some for label in axes.get_yticklabels())

"""A preprocessed source as the translation sees it: what is the user's, and where it stands."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator

MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"([ \d]*)$', re.MULTILINE)
LITERAL = re.compile(
    r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#[^\n]*', re.MULTILINE
)  # a #pragma too
ATTRIBUTE = re.compile(
    r"\b(?:__align__|alignas|__attribute__|__launch_bounds__)\s*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
)
OPEN, CLOSE = dict(zip("([{<", ")]}>", strict=True)), dict(zip(")]}>", "([{<", strict=True))


class UnsupportedError(RuntimeError):
    """The source uses what the emulator does not have. The message looks like a compiler's, with file and line."""


class Text:
    """A preprocessed source, of which `plain` is what comes from the user's files, with the contents of strings blanked.

    Headers are most of a source; they are left out, so positions in `plain` are not those in the source.
    """

    def __init__(self, source: str, is_ours: Callable[[str], bool]) -> None:
        self.source = source
        self.starts: list[int] = [0]  # where each piece begins in `plain`
        self.pieces: list[tuple[int, str, int]] = [
            (0, "", 0)
        ]  # and where in the source, of which file, at which line
        parts: list[str] = []
        length = 0
        markers = [*MARKER.finditer(source)]
        for marker, after in zip(markers, [*markers[1:], None], strict=True):
            if "3" in marker[3].split() or is_ours(marker[2]) or marker[2].startswith("<"):
                continue
            part = source[marker.end() + 1 : after.start() if after else len(source)]
            self.starts.append(length)
            self.pieces.append((marker.end() + 1, marker[2], int(marker[1])))
            parts.append(LITERAL.sub(_blank_literal, part))
            length += len(part)
        self.plain = "".join(parts)

    def _piece(self, position: int) -> tuple[int, int, str, int]:
        i = bisect.bisect_right(self.starts, position) - 1
        return self.starts[i], *self.pieces[i]

    def origin(self, position: int) -> int:
        """Return the position in the source."""
        start, source_start, _, _ = self._piece(position)
        return source_start + position - start

    def end(self, low: int, high: int) -> int:
        """Return where a part ends in the source: behind its last character, not before the next piece."""
        return self.origin(high - 1) + 1 if high > low else self.origin(low)

    def original(self, low: int, high: int) -> str:
        """Return the source between two positions, with the contents of strings."""
        return self.source[self.origin(low) : self.end(low, high)]

    def place(self, position: int) -> tuple[str, int]:
        """Return file and line of a position."""
        start, _, file, line = self._piece(position)
        return file, line + self.plain.count("\n", start, position)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _blank_literal(match: re.Match[str]) -> str:
    text = match.group()
    return text if text == '"C"' else _blank(text)


def matching(plain: str, position: int) -> int:
    """Return the position of the bracket that belongs to the one at `position`, in either direction; -1 if there is none.

    Angle brackets are only counted where the first one is angular.
    """
    first = plain[position]
    forward = first in OPEN
    partner = (OPEN if forward else CLOSE)[first]
    depth = 0
    for i in range(position, len(plain)) if forward else range(position, -1, -1):
        if plain[i] == first:
            depth += 1
        elif plain[i] == partner and not (partner == ">" and plain[i - 1] == "-"):
            depth -= 1
            if not depth:
                return i
    return -1


def statement_start(plain: str, position: int) -> int:
    """Return where the statement begins that a position is in."""
    low = 1 + max(plain.rfind(mark, 0, position) for mark in ";{}")
    return low + len(plain[low:position]) - len(plain[low:position].lstrip())


def split(text: str) -> list[str]:
    """Split at the commas that are outside of brackets."""
    parts, depth = [""], 0
    for i, char in enumerate(text):
        depth += (char in "([{<") - (char in ")]}" or (char == ">" and text[i - 1] != "-"))
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def device_functions(plain: str) -> Iterator[tuple[int, int, str]]:
    """Find the functions for the device: where the body begins and ends, and the name."""
    for match in re.finditer(r"\b(?:__global__|__device__)\b", plain):
        body = re.compile(r"[;{]").search(plain, match.end())
        if body and body.group() == "{":
            name = re.search(r"(\w+)\s*\(", re.sub(ATTRIBUTE, "", plain[match.end() : body.start()]))
            yield body.start(), matching(plain, body.start()) + 1, name[1] if name else ""

"""Single keys: from a terminal, from a Windows console, or the first letter of each line of a pipe."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

ESCAPE_S = 0.05  # the rest of an arrow key's bytes comes at once; a person is slower
POLL_S = 0.02
END, ESCAPE = (
    (b"", b"\x04"),
    b"\x1b",
)  # the end of the input, Ctrl-D; what an arrow or function key begins with


class Keys(Protocol):
    """Where a learner's keys come from."""

    def read(self, timeout: float | None = None) -> str:
        """Wait at most so many seconds for a key: "" when none came, "q" at the end of the input."""

    def flush(self) -> None:
        """Forget what was typed before it was asked for."""


class Pipe:
    """Lines of a file or a program: an empty line is a key, too."""

    def read(self, timeout: float | None = None) -> str:
        """Return the first letter of the next line; there is no waiting less long for it."""
        line = sys.stdin.readline()
        return (line.strip()[:1] or " ") if line else "q"

    def flush(self) -> None:
        """Keep what comes: it was written in advance on purpose."""


class Terminal:
    """A terminal of Linux or macOS that hands over each key as it is pressed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, timeout: float | None = None) -> str:
        """Return the next key; a key that sends a sequence, such as ESC [ A for an arrow, is none."""
        if not self._is_ready(timeout):
            return ""
        if (first := os.read(self._descriptor, 1)) in END:
            return "q"
        if first == ESCAPE:
            while self._is_ready(ESCAPE_S):
                os.read(self._descriptor, 64)
            return ""
        while first[0] >= 0x80 and self._is_ready(0) and not _is_whole(first):  # a letter of several bytes
            first += os.read(self._descriptor, 1)
        return first.decode(errors="ignore")

    def flush(self) -> None:
        """Forget what was typed before it was asked for."""
        import termios

        termios.tcflush(self._descriptor, termios.TCIFLUSH)

    def _is_ready(self, timeout: float | None) -> bool:
        return bool(select.select([self._descriptor], [], [], timeout)[0])


class WindowsConsole:
    """A console of Windows."""

    def __init__(self) -> None:
        self._console: Any = importlib.import_module("msvcrt")

    def read(self, timeout: float | None = None) -> str:
        """Return the next key; an arrow or a function key, which sends two, is none."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._console.kbhit():
            if end is not None and time.monotonic() >= end:
                return ""
            time.sleep(POLL_S)
        key: str = self._console.getwch()
        if key in ("\x00", "\xe0"):
            self._console.getwch()
            return ""
        if key == "\x03":  # Ctrl-C
            raise KeyboardInterrupt
        return "q" if key == "\x1a" else key  # Ctrl-Z

    def flush(self) -> None:
        """Forget what was typed before it was asked for."""
        while self._console.kbhit():
            self._console.getwch()


def _is_whole(letter: bytes) -> bool:
    try:
        return bool(letter.decode())
    except UnicodeDecodeError:
        return False


@contextlib.contextmanager
def keyboard() -> Iterator[Keys]:
    """Yield the keys of standard input; a terminal is put back as it was."""
    if not sys.stdin.isatty():
        yield Pipe()
        return
    try:
        import termios
        import tty
    except ImportError:
        yield WindowsConsole()
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Terminal(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

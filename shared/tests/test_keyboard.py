"""Keys: in a real (pseudo-)terminal, on a pipe, and on a Windows console that is played by the test."""

import io
import json
import os
import pty
import select
import signal
import sys
import time
import types

import pytest

from shared.practice import keyboard as module
from shared.projects import ROOT

BAR = "━".encode()  # of the countdown


class Screen:
    """The command in a terminal of its own, and what it has shown."""

    def __init__(self, folder, *arguments):
        script = (
            "import pathlib, sys, shared.practice.drill as drill; "
            f"sys.exit(drill.main({list(arguments)!r}, folder=pathlib.Path({str(folder)!r})))"
        )
        self.shown = b""
        self._child, self._descriptor = pty.fork()
        if self._child == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, "-c", script])

    def wait(self, text):
        """Read until the text is shown, and forget all up to it."""
        assert self.shows(text, 30), f"no {text!r} in {self.shown.decode(errors='replace')}"
        self.shown = self.shown.split(text, 1)[1]

    def shows(self, text, seconds):
        """Tell whether the text comes within so many seconds."""
        end = time.monotonic() + seconds
        while text not in self.shown and (left := end - time.monotonic()) > 0:
            if not self._read(left):
                break
        return text in self.shown

    def press(self, keys):
        """Send bytes as a keyboard does."""
        os.write(self._descriptor, keys)

    def end(self):
        """Return the exit status."""
        if self._read_to_the_end(20):
            return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        raise AssertionError(f"still there: {self.shown.decode(errors='replace')}")

    def _read(self, seconds):
        """Read what is shown within so many seconds; False when nothing more comes."""
        try:
            if select.select([self._descriptor], [], [], seconds)[0]:
                self.shown += os.read(self._descriptor, 4096)
        except OSError:  # the other end is closed
            return False
        return True

    def _read_to_the_end(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self._read(left):
                return True
        return False


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "practice"


def cards(folder):
    return json.loads((folder / "drills.json").read_text())["cards"]


def test_a_card_in_a_terminal(folder):
    """A key shows the answer, a key the follow-up's, a key rates it; q ends."""
    screen = Screen(folder)
    screen.wait(BAR)
    screen.press(b" ")
    screen.wait(b"answer")
    screen.wait(b"And then:")
    screen.wait(BAR)
    screen.press(b"\r")
    screen.wait(b"in short")
    screen.wait(b"[4] easy")
    screen.press(b"3")
    screen.wait(b"good; again in 10 min")
    screen.wait(BAR)
    screen.press(b"q")
    assert screen.end() == 0
    assert len(cards(folder)) == 1


@pytest.mark.parametrize(
    "key", [b"\x1b[A", b"\x1bOA", b"\x1b[1;5D", b"\x1b[15~", b"\x1b[[A", b"\x1b", "é".encode()]
)
def test_a_key_that_sends_a_sequence_neither_shows_an_answer_nor_rates(folder, key):
    """ESC [ A, an arrow, was read as three keys; the last one rates "again"."""
    screen = Screen(folder)
    screen.wait(BAR)
    if key[0] == 0x1B:
        screen.press(key)
        assert not screen.shows(b"answer", 0.6)
    screen.press(b" ")
    screen.wait(b"And then:")
    screen.wait(BAR)
    screen.press(b" ")
    screen.wait(b"[4] easy")
    screen.press(key)
    assert not screen.shows(b"again;", 0.6)
    screen.press(b"4")
    screen.wait(b"easy; again in")
    screen.wait(BAR)
    screen.press(b"q")
    assert screen.end() == 0


def test_what_is_typed_ahead_rates_nothing(folder):
    """Four keys at once were an answer shown, a rating, and the same for a card that nobody had read."""
    screen = Screen(folder)
    screen.wait(BAR)
    screen.press(b"  1 1 1")
    screen.wait(b"And then:")
    assert not screen.shows(b"in short", 0.6)
    screen.press(b" 4 4")
    screen.wait(b"[4] easy")
    assert not screen.shows(b"easy;", 0.6)
    screen.press(b"3 1 1 1")
    screen.wait(b"good; again")
    screen.wait(BAR)
    assert not screen.shows(b"answer", 0.6)
    screen.press(b"\x04")  # Ctrl-D
    assert screen.end() == 0
    assert len(cards(folder)) == 1


def test_a_pipe_gives_the_first_letter_of_each_line(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n  good\n3\n"))
    with module.keyboard() as keys:
        keys.flush()
        assert [keys.read(0.1), keys.read(), keys.read(None), keys.read(), keys.read(1)] == [
            " ",
            "g",
            "3",
            "q",
            "q",
        ]


@pytest.fixture
def console(monkeypatch):
    """Return the keys that wait in a Windows console; it stands in for the real one, where these tests were never run."""
    waiting = []
    fake = types.SimpleNamespace(kbhit=lambda: bool(waiting), getwch=lambda: waiting.pop(0))
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    return waiting


def test_a_windows_console(console):
    keys = module.WindowsConsole()
    assert keys.read(0.05) == ""
    console += ["\xe0", "H", "\x00", ";", "3", "\x1a", "\x03", "1", "1"]  # an arrow, F1, 3, Ctrl-Z, Ctrl-C
    assert [keys.read(1), keys.read(1), keys.read(1), keys.read(None)] == ["", "", "3", "q"]
    with pytest.raises(KeyboardInterrupt):
        keys.read()
    keys.flush()
    assert keys.read(0) == ""


def test_without_termios_the_keys_are_those_of_windows(console, monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setitem(sys.modules, "termios", None)
    with module.keyboard() as keys:
        assert isinstance(keys, module.WindowsConsole)

"""Single keys from a terminal, without waiting for Enter, on POSIX and on Windows."""

import os
import sys
import time
from types import TracebackType
from typing import Self

ARROWS = {
    "D": "left",
    "C": "right",
    "B": "down",
    "A": "up",
    "K": "left",
    "M": "right",
    "P": "down",
    "H": "up",
}


if sys.platform == "win32":
    import msvcrt

    class Keys:
        """The keyboard while the ``with`` block lasts."""

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

        def wait(self, seconds: float) -> str:
            """Wait so long, and return the last key pressed meanwhile: "left", "right", "q" …, or ""; "q" returns at once."""
            end, key = time.monotonic() + seconds, ""
            while time.monotonic() < end and key != "q":
                while msvcrt.kbhit():
                    letter = msvcrt.getwch()
                    key = ARROWS.get(msvcrt.getwch(), "") if letter in "\x00\xe0" else letter
                time.sleep(0.01)
            return key

else:
    import select
    import termios
    import tty

    class Keys:
        """The keyboard while the ``with`` block lasts: the terminal hands over each key at once and does not show it."""

        def __enter__(self) -> Self:
            self.terminal = sys.stdin.fileno()
            self.before = termios.tcgetattr(self.terminal)
            tty.setcbreak(self.terminal)
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            termios.tcsetattr(self.terminal, termios.TCSADRAIN, self.before)

        def wait(self, seconds: float) -> str:
            """Wait so long, and return the last key pressed meanwhile: "left", "right", "q" …, or ""; "q" returns at once."""
            end, key = time.monotonic() + seconds, ""
            while key != "q" and (left := end - time.monotonic()) > 0:
                if select.select([self.terminal], [], [], left)[0]:
                    pressed = os.read(self.terminal, 64).decode(errors="ignore")
                    if not pressed:
                        return "q"  # the terminal is gone
                    arrow = pressed[-3:-1] in ("\x1b[", "\x1bO")
                    key = "q" if "q" in pressed else ARROWS.get(pressed[-1], "") if arrow else ""
            return key

"""Ask one drill as an interviewer does: the question, thirty seconds, the answer, one follow-up, and a rating."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from fsrs import Rating
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from shared.practice.keyboard import Keys
from shared.practice.learner import minutes
from shared.practice.questions import Drill

SECONDS = 30
RATINGS = {"1": Rating.Again, "2": Rating.Hard, "3": Rating.Good, "4": Rating.Easy}
LETTERS = {"a": "1", "h": "2", "g": "3", "e": "4"}


@dataclass(frozen=True)
class Asked:
    """How one question went."""

    drill: Drill
    rating: Rating
    seconds: float  # until the answer was shown


def ask(drill: Drill, console: Console, keys: Keys) -> Asked | None:
    """Ask one question and one of its follow-ups; return how it went, or None to end."""
    keys.flush()
    console.print(f"\n[bold]{escape(drill.question)}[/]\n")
    start = time.monotonic()
    if count_down(SECONDS, console, keys) == "q":
        return None
    seconds = time.monotonic() - start
    console.print(Panel(escape(drill.answer), title="answer", title_align="left"))
    follow_up = random.choice(drill.follow_ups)
    keys.flush()
    console.print(f"And then: [bold]{escape(follow_up.question)}[/]\n")
    if count_down(SECONDS, console, keys) == "q":
        return None
    console.print(Panel(escape(follow_up.answer), title="in short", title_align="left"))
    console.print(f"[red]Never say:[/] {escape(drill.red_flag)}")
    if drill.figure:
        console.print(f"Figure: projects/{drill.project}/results/{drill.figure}.svg", soft_wrap=True)
    console.print(f"Proof: {drill.proof}", soft_wrap=True)
    rating = read_rating(console, keys)
    return None if rating is None else Asked(drill, rating, seconds)


def read_rating(console: Console, keys: Keys) -> Rating | None:
    """Wait for one of the four ratings; None to end."""
    keys.flush()
    console.print("[1] again  [2] hard  [3] good  [4] easy".replace("[", r"\["))
    while True:
        pressed = keys.read().lower()
        if pressed == "q":
            return None
        pressed = LETTERS.get(pressed, pressed)
        if pressed in RATINGS:
            return RATINGS[pressed]


def count_down(seconds: float, console: Console, keys: Keys) -> str:
    """Show the time that is left until a key is pressed; return the key in lower case, "" when time is up."""
    end = time.monotonic() + seconds
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while (left := end - time.monotonic()) > 0:
            bar = Table.grid(padding=(0, 1))
            shown = f"{left:2.0f} s" if seconds <= 60 else minutes(left)
            bar.add_row(ProgressBar(total=seconds, completed=left, width=40), shown)
            live.update(bar, refresh=True)
            if pressed := keys.read(min(left, 0.5)):
                return pressed.lower()
    console.print("Time.", style="yellow")
    return ""

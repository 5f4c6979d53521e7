"""Say it in thirty seconds: ``nox -s drill`` asks what is due, counts while you speak, and shows the answer.

Every answer quotes numbers measured in this repository and names the command that measures them again. You judge
yourself by one key; FSRS decides when the question comes back. The history is in practice/drills.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import random
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fsrs import Rating
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from shared.practice.grade import did_you_mean
from shared.practice.json_file import run_command
from shared.practice.questions import Drill, load_drills
from shared.practice.schedule import DEBUG, WRITE, Schedule, now
from shared.projects import ROOT, load_projects

SECONDS = 30
NEW = 5  # how many questions that were never asked come up in one session
RATINGS = {"1": Rating.Again, "2": Rating.Hard, "3": Rating.Good, "4": Rating.Easy}
LETTERS = {"a": "1", "h": "2", "g": "3", "e": "4"}
HISTOGRAM_DAYS = 14
ANKI_DECK, ANKI_MODEL = 1_866_201_337, 1_431_905_228  # fixed for ever: a new import updates the old deck

ReadKey = Callable[[float | None], str]
"""Wait at most so many seconds for a key; "" when none came, "q" at the end of the input."""


def load_all() -> dict[str, Drill]:
    """Return every project's drills by key, in reading order."""
    return {drill.key: drill for project in load_projects() for drill in load_drills(project.folder)}


# --- one session ------------------------------------------------------------------------------------------


def ask_all(
    drills: Mapping[str, Drill], schedule: Schedule, new: int, console: Console, read_key: ReadKey
) -> None:
    """Ask what is due, then at most `new` questions that were never asked."""
    due = schedule.due(drills)
    unseen = [key for key in drills if key not in schedule.cards]
    queue = [*due, *unseen[:new]]
    if not queue:
        console.print(_nothing_due(drills, schedule))
        return
    console.print(
        f"{len(due)} due, {len(queue) - len(due)} new of {len(unseen)}. Speak for {SECONDS} seconds; any key shows the "
        "answer, q ends.",
        style="dim",
    )
    for number, key in enumerate(queue, start=1):
        console.rule(f"{number} of {len(queue)}  [dim]{key.split('/')[0]}[/]")
        rating = ask(key, drills[key], console, read_key)
        if rating is None:
            return
        card = schedule.review(key, rating)
        console.print(f"[dim]{rating.name.lower()}; again {_until(card.due)}[/]")


def ask(key: str, drill: Drill, console: Console, read_key: ReadKey) -> Rating | None:
    """Ask one question, count down, show the answer and return the learner's rating; None to end."""
    console.print(f"\n[bold]{escape(drill.question)}[/]\n")
    if count_down(console, read_key) == "q":
        return None
    console.print(Panel(escape(drill.answer), title="answer", title_align="left"))
    if drill.red_flag:
        console.print(f"[red]Never say:[/] {escape(drill.red_flag)}")
    if drill.follow_ups:
        console.print(f"And then: [italic]{escape(random.choice(drill.follow_ups).question)}[/]")
    project = key.split("/")[0]
    if drill.figure:
        console.print(f"Figure: projects/{project}/results/{drill.figure}.svg")
    console.print(f"Proof: {drill.proof}")
    console.print("[1] again  [2] hard  [3] good  [4] easy".replace("[", r"\["))
    while True:
        pressed = read_key(None).lower()
        if pressed == "q":
            return None
        pressed = LETTERS.get(pressed, pressed)
        if pressed in RATINGS:
            return RATINGS[pressed]


def count_down(console: Console, read_key: ReadKey) -> str:
    """Show the seconds that are left until a key is pressed; return the key, "" when time is up."""
    start = time.monotonic()
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while (left := SECONDS - (time.monotonic() - start)) > 0:
            bar = Table.grid(padding=(0, 1))
            bar.add_row(ProgressBar(total=SECONDS, completed=left, width=40), f"{left:2.0f} s")
            live.update(bar, refresh=True)
            if pressed := read_key(min(left, 0.5)):
                return pressed
    console.print("Time.", style="yellow")
    return ""


def _nothing_due(drills: Mapping[str, Drill], schedule: Schedule) -> str:
    seen = [schedule.cards[key].due for key in drills if key in schedule.cards]
    if not seen:
        return "No question fits."
    return f"Nothing is due; the next question comes {_until(min(seen))}. More new ones: --new {NEW}"


def _until(due: datetime.datetime) -> str:
    minutes = max(0, round((due - now()).total_seconds() / 60))
    if minutes < 60:
        return f"in {minutes} min"
    return f"in {round(minutes / 60)} h" if minutes < 24 * 60 else f"in {round(minutes / 60 / 24)} days"


# --- list, statistics, Anki -------------------------------------------------------------------------------


def show_list(drills: Mapping[str, Drill], schedule: Schedule, console: Console) -> None:
    """Print every question with its topic and when it is due."""
    table = Table("project", "question", "topic", "due", box=None)
    for key, drill in drills.items():
        card = schedule.cards.get(key)
        due = "new" if card is None else "now" if card.due <= now() else _until(card.due)
        table.add_row(key.split("/")[0], escape(drill.question), escape(drill.topic), due)
    console.print(table)


def show_stats(drills: Mapping[str, Drill], schedule: Schedule, console: Console) -> None:
    """Print how many questions come on which of the next days, as a histogram."""
    today = now()
    seen = [schedule.cards[key] for key in drills if key in schedule.cards]
    days = Counter(min(max((card.due - today).days, -1), HISTOGRAM_DAYS) for card in seen)
    most = max(days.values(), default=1)
    for day in range(-1, HISTOGRAM_DAYS + 1):
        label = {-1: "now", 0: "today", 1: "tomorrow", HISTOGRAM_DAYS: "later"}.get(day, f"in {day} days")
        bar = "#" * max(round(40 * days[day] / most), bool(days[day]))
        console.print(f"{label:>10}  {bar:<40} {days[day] or ''}")
    console.print(f"{len(seen)} of {len(drills)} questions were asked at least once")


def write_anki(drills: Mapping[str, Drill], file: Path) -> None:
    """Write an Anki deck; ids are stable, so importing it again updates the notes and keeps their history."""
    import genanki

    model = genanki.Model(
        ANKI_MODEL,
        "Groundwork drill",
        fields=[{"name": name} for name in ("Question", "Project", "Answer", "Proof")],
        templates=[
            {
                "name": "Thirty seconds",
                "qfmt": "<h3>{{Question}}</h3><small>{{Project}}</small>",
                "afmt": "{{FrontSide}}<hr id=answer>{{Answer}}<p><code>{{Proof}}</code></p>",
            }
        ],
    )
    deck = genanki.Deck(ANKI_DECK, "Groundwork")
    for key, drill in drills.items():
        project = key.split("/")[0]
        fields = [_html(text) for text in (drill.question, project, drill.answer, drill.proof)]
        deck.add_note(genanki.Note(model=model, fields=fields, guid=genanki.guid_for("groundwork", key)))
    genanki.Package(deck).write_to_file(str(file))


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- the keyboard -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def keyboard() -> Iterator[ReadKey]:
    """Yield a function that reads single keys from a terminal, or the first letter of each line from a pipe."""
    if not sys.stdin.isatty():
        yield lambda _: sys.stdin.readline()[:1].strip() or "q"
        return
    try:
        import termios
        import tty
    except ImportError:  # Windows: a key and Enter
        yield lambda timeout: "" if timeout else input()[:1]
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read_key(timeout: float | None) -> str:
        ready, _, _ = select.select([descriptor], [], [], timeout)
        return (os.read(descriptor, 1).decode(errors="ignore") or "q") if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield read_key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def main(arguments: Sequence[str] | None = None, *, folder: Path = ROOT / "practice") -> int:
    """Run the command line."""
    drills = load_all()
    parser = argparse.ArgumentParser(prog="nox -s drill --", description="Explain it in thirty seconds.")
    projects = sorted({key.split("/")[0] for key in drills})
    parser.add_argument("--project", metavar="NAME", help=", ".join(projects))
    parser.add_argument("--topic", metavar="TEXT", help="only topics that contain TEXT")
    parser.add_argument(
        "--new", type=int, default=NEW, metavar="N", help=f"at most N new questions (default {NEW})"
    )
    parser.add_argument("--list", action="store_true", help="every question and when it is due")
    parser.add_argument("--stats", action="store_true", help="what is due on which day")
    parser.add_argument("--anki", type=Path, metavar="FILE", help="write an Anki deck (.apkg)")
    options = parser.parse_args(arguments)
    if options.project not in (None, *projects):
        parser.error(f"no project {options.project!r}{did_you_mean(options.project, projects)}")
    chosen = {
        key: drill
        for key, drill in drills.items()
        if options.project in (None, key.split("/")[0])
        and (options.topic or "").casefold() in drill.topic.casefold()
    }
    console = Console(highlight=False)
    schedule = Schedule(folder, console.print)
    if options.anki:
        write_anki(chosen, options.anki)
        console.print(f"wrote {options.anki}: {len(chosen)} notes")
    elif options.list:
        show_list(chosen, schedule, console)
    elif options.stats:
        show_stats(chosen, schedule, console)
    else:
        for card, said, command in ((WRITE, "written", "practice"), (DEBUG, "debugged", "debug")):
            for key in schedule.due(key for key in schedule.cards if key.startswith(card)):
                name = key.removeprefix(card)
                console.print(f"Due to be {said} again: [bold]{name}[/]  nox -s {command} -- {name} --reset")
        with keyboard() as read_key:
            ask_all(chosen, schedule, options.new, console, read_key)
    return 0


if __name__ == "__main__":
    run_command(main)

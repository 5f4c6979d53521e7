"""Say it in thirty seconds: ``nox -s drill`` asks what is due, counts while you speak, and shows the answer.

Every answer quotes numbers measured in this repository and names the command that measures them again. One follow-up
comes next, as in an interview. You judge yourself by one key; FSRS decides when the question comes back. The history is in
practice/drills.json.
"""

from __future__ import annotations

import argparse
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from fsrs import Rating
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.practice.anki import write_deck
from shared.practice.card import SECONDS, ask
from shared.practice.grade import did_you_mean
from shared.practice.interview import DRILLS, Interview
from shared.practice.json_file import run_command
from shared.practice.keyboard import Keys, keyboard
from shared.practice.learner import Learner
from shared.practice.questions import Drill, load_drills
from shared.practice.schedule import DEBUG, WRITE, Schedule, days_until, now, when
from shared.projects import ROOT, load_projects, load_study_list

NEW = 5  # how many questions that were never asked come up in one session
MINUTES = 20
HISTOGRAM_DAYS = 14


def load_all() -> dict[str, Drill]:
    """Return every project's drills by key, in reading order."""
    return {drill.key: drill for project in load_projects() for drill in load_drills(project.folder)}


def choose(drills: Mapping[str, Drill], project: str | None, topic: str | None) -> dict[str, Drill]:
    """Return the drills of a project whose question, topic or group of topics contains a text, in any case."""
    groups, wanted = load_study_list().topics, (topic or "").casefold()
    return {
        key: drill
        for key, drill in drills.items()
        if project in (None, drill.project)
        and any(
            wanted in text.casefold() for text in (drill.question, drill.topic, groups.get(drill.topic, ""))
        )
    }


# --- one session ------------------------------------------------------------------------------------------


def ask_all(drills: Mapping[str, Drill], schedule: Schedule, new: int, console: Console, keys: Keys) -> None:
    """Ask what is due, then at most `new` questions that were never asked; one that was missed, until it is known."""
    due = schedule.due(drills)
    unseen = [key for key in drills if key not in schedule.cards]
    queue = deque([*due, *unseen[:new]])
    if not queue:
        console.print("Nothing is due.", what_is_left(drills, schedule))
        return
    console.print(
        f"{len(due)} due, {len(queue) - len(due)} new of {len(unseen)}. Speak for {SECONDS} seconds; any key shows the "
        "answer, q ends.",
        style="dim",
    )
    number = 0
    while queue:
        key, number = queue.popleft(), number + 1
        console.rule(f"{number} of {number + len(queue)}  [dim]{drills[key].project}[/]")
        if key in schedule.cards and schedule.cards[key].due > now():
            console.print(
                f"[dim]You missed this one; asked early, it is due {when(schedule.cards[key].due)}.[/]"
            )
        asked = ask(drills[key], console, keys)
        if asked is None:
            return
        card = schedule.review(key, asked.rating)
        if asked.rating is Rating.Again:
            queue.append(key)
        comes_back = "at the end of this round" if asked.rating is Rating.Again else when(card.due)
        console.print(f"[dim]{asked.rating.name.lower()}; again {comes_back}[/]")
    console.print(what_is_left(drills, schedule))


def what_is_left(drills: Mapping[str, Drill], schedule: Schedule) -> str:
    """Say when the next question comes, and how many were never asked."""
    seen = [schedule.cards[key].due for key in drills if key in schedule.cards]
    comes = f"The next question comes {when(min(seen))}. " if seen else ""
    if unseen := len(drills) - len(seen):
        return f"{comes}{unseen} of {len(drills)} were never asked: --new {min(NEW, unseen)}"
    return f"{comes}All {len(drills)} were asked."


# --- list, statistics -------------------------------------------------------------------------------------


def show_list(drills: Mapping[str, Drill], schedule: Schedule, console: Console) -> None:
    """Print every question with its topic and when it is due."""
    table = Table("project", "question", "topic", "due", box=None)
    for key, drill in drills.items():
        card = schedule.cards.get(key)
        due = "new" if card is None else when(card.due)
        table.add_row(drill.project, escape(drill.question), escape(drill.topic), due)
    console.print(table)


def show_stats(drills: Mapping[str, Drill], schedule: Schedule, console: Console) -> None:
    """Print how many questions come on which of the next days, as a histogram."""
    seen = [schedule.cards[key].due for key in drills if key in schedule.cards]
    days = Counter(-1 if due <= now() else min(days_until(due), HISTOGRAM_DAYS) for due in seen)
    most = max(days.values(), default=1)
    for day in range(-1, HISTOGRAM_DAYS + 1):
        label = {-1: "now", 0: "today", 1: "tomorrow", HISTOGRAM_DAYS: "later"}.get(day, f"in {day} days")
        bar = "#" * max(round(40 * days[day] / most), bool(days[day]))
        console.print(f"{label:>10}  {bar:<40} {days[day] or ''}")
    console.print(f"{len(seen)} of {len(drills)} questions were asked at least once")


# --- the command line -------------------------------------------------------------------------------------


def at_least(least: int, text: str) -> int:
    """Return a number of the command line.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none, or too small.
    """
    if not text.lstrip("+-").isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def deck_file(text: str) -> Path:
    """Return the path of a deck to write.

    Raises
    ------
    argparse.ArgumentTypeError
        If it cannot be one.
    """
    file = Path(text)
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give a file in it: {file / 'groundwork.apkg'}")
    if file.suffix.lower() != ".apkg":
        raise argparse.ArgumentTypeError(f"Anki reads files whose names end in .apkg, not {file.name}")
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {file.parent}")
    return file


def parse(arguments: Sequence[str] | None, projects: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="nox -s drill --", description="Explain it in thirty seconds.")
    parser.add_argument("--project", metavar="NAME", help=", ".join(projects))
    parser.add_argument(
        "--topic", metavar="TEXT", help="only where the question, topic or group contains TEXT"
    )
    parser.add_argument(
        "--new",
        type=lambda text: at_least(0, text),
        default=NEW,
        metavar="N",
        help=f"at most N new questions (default {NEW})",
    )
    parser.add_argument("--list", action="store_true", help="every question and when it is due")
    parser.add_argument("--stats", action="store_true", help="what is due on which day")
    parser.add_argument("--anki", type=deck_file, metavar="FILE", help="write an Anki deck (.apkg)")
    parser.add_argument(
        "--interview",
        type=lambda text: at_least(1, text),
        nargs="?",
        const=MINUTES,
        metavar="MINUTES",
        help=f"a mixed round of so many minutes (default {MINUTES}): {DRILLS} drills in half of them, then a mistake to "
        "find and a function to write in a quarter each; the summary is kept in practice/",
    )
    options = parser.parse_args(arguments)
    if options.project not in (None, *projects):
        parser.error(f"no project {options.project!r}{did_you_mean(options.project, projects)}")
    return options


def main(arguments: Sequence[str] | None = None, *, folder: Path = ROOT / "practice") -> int:
    """Run the command line."""
    drills = load_all()
    options = parse(arguments, sorted({drill.project for drill in drills.values()}))
    console = Console(highlight=False)
    chosen = choose(drills, options.project, options.topic)
    if not chosen:
        groups = dict.fromkeys(load_study_list().topics.values())
        console.print(
            f"No question is about {options.topic!r}. The groups of topics: {', '.join(groups)}",
            soft_wrap=True,
        )
        return 2
    schedule = Schedule(folder, console.print)
    if options.anki:
        write_deck(chosen.values(), options.anki)
        console.print(f"wrote {options.anki}: {len(chosen)} notes")
    elif options.list:
        show_list(chosen, schedule, console)
    elif options.stats:
        show_stats(chosen, schedule, console)
    elif options.interview:
        projects = [project for project in load_projects() if options.project in (None, project.name)]
        with keyboard() as keys:
            Interview(list(chosen.values()), projects, Learner(folder, console), schedule, keys).run(
                options.interview
            )
    else:
        for card, said, command in ((WRITE, "written", "practice"), (DEBUG, "debugged", "debug")):
            for key in schedule.due(key for key in schedule.cards if key.startswith(card)):
                name = key.removeprefix(card)
                console.print(f"Due to be {said} again: [bold]{name}[/]  nox -s {command} -- {name} --reset")
        with keyboard() as keys:
            ask_all(chosen, schedule, options.new, console, keys)
    return 0


if __name__ == "__main__":
    run_command(main)

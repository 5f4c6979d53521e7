"""When each card is due: practice/drills.json, scheduled by FSRS (spaced repetition by a model of forgetting)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fsrs import Card, Rating, Scheduler

from shared.practice.json_file import read_rows, write_rows

FILE = "drills.json"
WRITE, DEBUG = "write:", "debug:"  # a card "write:<project>" asks to write a whole deliverable again


def now() -> datetime.datetime:
    """Return the time in UTC, as FSRS wants it."""
    return datetime.datetime.now(datetime.UTC)


def days_until(due: datetime.datetime) -> int:
    """Count the days of the calendar until then, where the learner is: tomorrow is 1."""
    return (due.astimezone().date() - now().astimezone().date()).days


def when(due: datetime.datetime) -> str:
    """Say when a card is due: in minutes, hours or days of the calendar."""
    minutes, days = (due - now()).total_seconds() / 60, days_until(due)
    if minutes <= 0:
        return "now"
    if minutes < 59.5:
        return f"in {max(1, round(minutes))} min"
    if days == 0:
        return f"in {round(minutes / 60)} h"
    return "tomorrow" if days == 1 else f"in {days} days"


class Schedule:
    """The learner's cards by key: ``<project>/<question>``, ``write:<project>`` or ``debug:<project>``.

    A key whose question is gone stays in the file, so a question that comes back finds its history again.
    """

    def __init__(self, folder: Path, say: Callable[[str], object] = print) -> None:
        self._path = folder / FILE
        self._say = say
        self._scheduler = Scheduler()
        self.cards = self._load()

    def _load(self) -> dict[str, Card]:
        return read_rows(self._path, _read_card, self._say, inside="cards")

    def review(self, key: str, rating: Rating, *, at: datetime.datetime | None = None) -> Card:
        """Record how well a card went, and return it with the time when it is due again.

        The file is read again first: another terminal may have written since.
        """
        self.cards = self._load()
        card, _ = self._scheduler.review_card(self.cards.get(key, Card()), rating, at or now())
        self.cards[key] = card
        write_rows(self._path, {name: kept.to_dict() for name, kept in self.cards.items()}, inside="cards")
        return card

    def due(self, keys: Iterable[str], *, at: datetime.datetime | None = None) -> list[str]:
        """Return the keys that are due, the longest overdue first; a key without a card is new, not due."""
        moment = at or now()
        known = [key for key in keys if key in self.cards and self.cards[key].due <= moment]
        return sorted(known, key=lambda key: self.cards[key].due)


def _read_card(data: Any) -> Card:
    card = Card.from_dict(data)
    if card.due.tzinfo is None:
        raise ValueError("a time without a zone")
    return card

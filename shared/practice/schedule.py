"""When each drill is due: practice/drills.json, scheduled by FSRS (spaced repetition by a model of forgetting)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fsrs import Card, Rating, Scheduler

from shared.practice.json_file import read_state, write_state

WRITE = "write:"  # a card "write:<project>" asks to write a whole deliverable again


def now() -> datetime.datetime:
    """Return the time in UTC, as FSRS wants it."""
    return datetime.datetime.now(datetime.UTC)


class Reviews:
    """The learner's cards by key: ``<project>/<drill id>``, or ``write:<project>``.

    A key whose drill is gone stays in the file, so a question that comes back finds its history again.
    """

    def __init__(self, path: Path, say: Callable[[str], object] = print) -> None:
        self._path = path
        self._say = say
        self._scheduler = Scheduler()
        self.cards = self._load()

    def _load(self) -> dict[str, Card]:
        state = read_state(self._path, _is_valid, self._say)
        return {} if state is None else {key: Card.from_dict(card) for key, card in state["cards"].items()}

    def review(self, key: str, rating: Rating, *, at: datetime.datetime | None = None) -> Card:
        """Record how well a card went, and return it with the time when it is due again.

        The file is read again first: another terminal may have written since.
        """
        self.cards = self._load()
        card, _ = self._scheduler.review_card(self.cards.get(key, Card()), rating, at or now())
        self.cards[key] = card
        write_state(self._path, {"cards": {name: kept.to_dict() for name, kept in self.cards.items()}})
        return card

    def due(self, keys: Iterable[str], *, at: datetime.datetime | None = None) -> list[str]:
        """Return the keys that are due, the longest overdue first; a key without a card is new, not due."""
        moment = at or now()
        known = [key for key in keys if key in self.cards and self.cards[key].due <= moment]
        return sorted(known, key=lambda key: self.cards[key].due)


def _is_valid(state: Any) -> bool:
    """Tell whether `state` can be read: every card has what FSRS needs."""
    try:
        for card in state["cards"].values():
            if Card.from_dict(card).due.tzinfo is None:
                return False
    except Exception:  # whatever a damaged file makes FSRS raise
        return False
    return isinstance(state["cards"], dict)

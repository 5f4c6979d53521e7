"""A text as it is spoken, to count its words: "8,700" is four of them, "n²" is two."""

from __future__ import annotations

import re
from collections.abc import Callable

import inflect

NUMBERS = inflect.engine()
POWERS = {"²": "squared", "³": "cubed", "ᵀ": "transposed"}
SMALL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿᵗ₀₁₂₃₄₅₆₇₈₉₊₋ₜ", "0123456789+-nt0123456789+-t")
SIGNS = {
    "%": "percent",
    "=": "equals",
    "≠": "is not",
    "≈": "about",
    "~": "about",
    "<": "less than",
    ">": "more than",
    "≤": "at most",
    "≥": "at least",
    "+": "plus",
    "±": "plus or minus",
    "−": "minus",
    "×": "times",
    "*": "times",
    "·": "times",
    "/": "over",
    "^": "to the",
    "√": "root",
    "→": "to",
    "–": "to",
    "@": "times",
    "&": "and",
}
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def spoken(text: str) -> str:
    """Return what is said aloud, in words. What is hyphenated counts as one word, "thirty-two" as well.

    Raises
    ------
    ValueError
        For a number in scientific notation, which nobody says.
    """
    if found := re.search(r"\d[\d.]*e[+-]?\d+", text):
        raise ValueError(f"nobody says {found[0]}")
    for pattern, words in RULES:
        text = re.sub(pattern, words, text)
    return " ".join(word for word in text.split() if any(map(str.isalnum, word)))


def count_words(text: str) -> int:
    """Count the words of a text as it is spoken."""
    return len(spoken(text).split())


def _number(found: re.Match[str]) -> str:
    words = NUMBERS.number_to_words(found[0].replace(",", ""), andword="", comma="")
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return f"{'' if before == '-' else ' '}{words}{'' if after == '-' else ' '}"  # "12-layer" stays one word


def _power(found: re.Match[str]) -> str:
    return f" {POWERS.get(found[0], f'to the {found[0].translate(SMALL)}')} "


RULES: tuple[Rule, ...] = (  # in this order
    ("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿᵗᵀ]+", _power),
    ("[₀₁₂₃₄₅₆₇₈₉₊₋ₜ]+", lambda found: f" {found[0].translate(SMALL)} "),
    (r"\bO\(", "O of "),
    (r"(?<![\w)])-(?=[\d.])", " minus "),  # -3, and not the hyphen of "12-layer"
    (r"\d[\d,]*\d(?:st|nd|rd|th)\b|\d(?:st|nd|rd|th)\b", _number),
    (r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\w)\.\d+", _number),
    (f"[{re.escape(''.join(SIGNS))}]", lambda found: f" {SIGNS[found[0]]} "),
)

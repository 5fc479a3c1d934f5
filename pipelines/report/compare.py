"""Two texts side by side: the lines that differ, with a few around them, and what differs within a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

_CHARACTERS = 1 << 18  # of each text that are compared
_LINES = 1000  # likewise
_LINE = 400  # characters of a line that are shown
_ROWS = 120
_AROUND = 3  # equal lines shown before and after a difference
_ALIKE = 0.4  # lines less alike than this are shown as wholly different
_LONG = 160  # longer lines, such as paragraphs of prose, are cut at the ends of sentences
_SENTENCE = re.compile(r"(?<=[.!?;。！？]) +")
_WORD = re.compile(r"\w+|\s+|.")

Piece = tuple[str, bool]
"""A part of a line, and whether it differs."""


@dataclass(frozen=True)
class Line:
    """A line, by its number in the whole text from 1. pieces: its parts; a clipped line ends with …"""

    number: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Row:
    """Two lines beside each other; None where one text has none. same: whether they are equal but for white space."""

    left: Line | None
    right: Line | None
    same: bool


@dataclass(frozen=True)
class Comparison:
    """hunks: stretches of rows around the differences; cut: whether more of the texts differs, or was not compared."""

    hunks: tuple[tuple[Row, ...], ...]
    cut: bool


def compare(left: str, right: str) -> Comparison:
    """Compare two texts by lines, without regard to white space; of long lines each sentence is one."""
    a, b = _lines(left[:_CHARACTERS]), _lines(right[:_CHARACTERS])
    cut = max(len(left), len(right)) > _CHARACTERS or max(len(a), len(b)) > _LINES
    a, b = a[:_LINES], b[:_LINES]
    matcher = difflib.SequenceMatcher(None, _without_space(a), _without_space(b))
    hunks: list[tuple[Row, ...]] = []
    room = _ROWS
    for group in matcher.get_grouped_opcodes(_AROUND):
        rows = chain.from_iterable(_rows(kind == "equal", a[i:j], b[m:n]) for kind, i, j, m, n in group)
        if room:
            hunks.append(tuple(islice(rows, room)))
            room -= len(hunks[-1])
        cut = cut or next(rows, None) is not None
    return Comparison(tuple(hunks), cut)


def _lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers; the sentences of a long one share its number."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        parts = _SENTENCE.split(line) if len(line) > _LONG else [line]
        found += [(number, part if len(part) <= _LINE else part[:_LINE] + "…") for part in parts]
        if len(found) > _LINES:
            break
    return found


def _without_space(lines: list[tuple[int, str]]) -> list[str]:
    return [" ".join(text.split()) for _, text in lines]


def _rows(same: bool, a: list[tuple[int, str]], b: list[tuple[int, str]]) -> Iterator[Row]:
    for left, right in zip_longest(a, b):
        if left is None or right is None:
            yield Row(_whole(left, True), _whole(right, True), False)
        elif same:
            yield Row(_whole(left, False), _whole(right, False), True)
        else:
            yield Row(*_within(left, right), False)


def _whole(line: tuple[int, str] | None, differs: bool) -> Line | None:
    return None if line is None else Line(line[0], ((line[1], differs),))


def _within(left: tuple[int, str], right: tuple[int, str]) -> tuple[Line, Line]:
    """Two lines with the words marked in which they differ."""
    a, b = _WORD.findall(left[1]), _WORD.findall(right[1])
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return Line(left[0], ((left[1], True),)), Line(right[0], ((right[1], True),))
    codes = matcher.get_opcodes()
    return (
        Line(left[0], tuple(("".join(a[i:j]), kind != "equal") for kind, i, j, _, _ in codes if j > i)),
        Line(right[0], tuple(("".join(b[i:j]), kind != "equal") for kind, _, _, i, j in codes if j > i)),
    )

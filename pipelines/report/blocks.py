"""Parts that every section uses: tables, notes, definitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.report.markup import Html, breakable, clip, tag

_PATH = 200  # characters of a path that are shown


@dataclass(frozen=True)
class Column:
    """A column of a table; one of bars needs no name. kind: class of its cells (`num`: to the right, `drawn`: bars)."""

    name: str
    kind: str | None = None


def table(caption: object, columns: Sequence[Column], rows: Iterable[Sequence[object]], stack: bool = False) -> Html:
    """A table whose first column names its rows. A row of `Summed` is set apart. On phones, `stack` puts one cell
    a line, and bars are left out where there are many columns.
    """
    head = tag("tr", [_head(column) for column in columns])
    body = [tag("tr", _cells(columns, row), class_="sum" if isinstance(row, Summed) else None) for row in rows]
    kind = "stack" if stack else "many" if len(columns) > 4 else None
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_=kind)


def _head(column: Column) -> Html:
    return tag("th", column.name, scope="col", class_=column.kind) if column.name else tag("td", class_=column.kind)


class Summed(tuple[object, ...]):
    """A row that sums up others."""


def _cells(columns: Sequence[Column], row: Sequence[object]) -> list[Html]:
    named = breakable(row[0]) if isinstance(row[0], str) and not isinstance(row[0], Html) else row[0]
    first = tag("th", named, scope="row", class_=columns[0].kind)
    return [first, *(tag("td", cell, class_=column.kind) for column, cell in zip(columns[1:], row[1:], strict=True))]


def path(value: str) -> Html:
    """A path, id or other name out of the data."""
    return tag("code", breakable(clip(value, _PATH)))


def note(*parts: object) -> Html:
    """A paragraph of explanation."""
    return tag("p", *parts, class_="quiet")


def key(kind: str) -> Html:
    """A patch of a colour, before what it stands for."""
    return tag("i", class_=f"key {kind}", aria_hidden="true")


def details(summary: object, *parts: object) -> Html:
    """Parts that are shown on demand."""
    return tag("details", tag("summary", summary), *parts)


def section(anchor: str, title: str, *parts: object) -> Html:
    """A section with its heading."""
    return tag("section", tag("h2", title, id=anchor), *parts)

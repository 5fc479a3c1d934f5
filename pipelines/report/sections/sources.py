"""Where the documents come from, how long they are, and in what languages."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.report.blocks import Column, note, path, table
from pipelines.report.charts import Side, bar, histogram
from pipelines.report.gather import Component, Numbers
from pipelines.report.markup import Html, clip, join, number, percent, plural, size, tag
from pipelines.report.values import Axis, Values, axis_for

_LANGUAGES = 12
_NAME = 40
_NAMED = {"code": ", by file name", "natural_language": " (ISO 639 codes)"}


def section(numbers: Numbers) -> Html:
    """Sources of all components, then lengths and languages of each."""
    ready = [one for one in numbers.components if one.documents is not None]
    axes = {
        "characters": axis_for([one.measures.characters for one in ready]),
        "words": axis_for([one.measures.words for one in ready]),
        "tokens": axis_for([one.measures.token_rule.passed for one in ready]),
    }
    return join(
        _sources(numbers),
        note(
            "Characters, words and languages are those of documents that passed ingest, duplicates included. Tokens "
            "are those of documents kept. Pictures of one kind share their scale of lengths."
        )
        if ready
        else None,
        [
            join(tag("h3", one.name), _lengths(one, axes), _languages(one, numbers.config.kind(one.name)))
            for one in ready
        ],
    )


def _sources(numbers: Numbers) -> Html:
    rows = []
    for one in numbers.components:
        counts = one.documents.counts if one.documents else {}
        for at, source in enumerate(numbers.config.components[one.name].sources):
            found = counts.get(f"source.{at}.documents_in")
            unreadable = counts.get(f"source.{at}.unreadable", 0)
            shown = ("not finished", "") if found is None else (number(found), number(unreadable))
            root = _root(numbers, one.name, at)
            at_root = tag("span", " read at ", path(root), class_="quiet") if root not in ("", source.path) else None
            rows.append((one.name, join(path(source.path), f" ({source.format})", at_root), *shown))
    read = sum(
        part.size for one in numbers.components if one.documents for unit in one.documents.units for part in unit.inputs
    )
    columns = [Column("component"), Column("source"), Column("found", "num"), Column("unreadable", "num")]
    return table(f"Documents found in each source{f'; {size(read)} were read' if read else ''}", columns, rows)


def _root(numbers: Numbers, component: str, source: int) -> str:
    """Where the last command read a source; empty when that is not known."""
    roots = (numbers.facts or {}).get("roots", {}).get(component, [])
    return str(roots[source]) if source < len(roots) else ""


def _lengths(one: Component, axes: dict[str, Axis]) -> Html:
    measures = one.measures
    told = [("characters", measures.characters), ("words", measures.words), ("tokens", measures.token_rule.passed)]
    return tag("div", [_length(name, values, axes[name]) for name, values in told if values.number], class_="charts")


def _length(name: str, values: Values, axis: Axis) -> Html:
    quantiles = ", ".join(f"{share:.0%} {number(values.quantile(share))}" for share in (0.05, 0.5, 0.95))
    said = (
        f"{name} of {plural(values.number, 'document')}: {quantiles}; longest {number(values.greatest)}, "
        f"{number(values.total)} in all"
    )
    caption = tag(
        "figcaption",
        tag("strong", name.capitalize()),
        f" of a document: median {number(values.quantile(0.5))}",
        tag(
            "span",
            f"90 % from {number(values.quantile(0.05))} to {number(values.quantile(0.95))}, longest "
            f"{number(values.greatest)}, {number(values.total)} in all",
        ),
    )
    return tag("figure", caption, histogram(axis, Side(axis.heights(values), "kept"), None, said))


def _languages(one: Component, kind: str) -> Html:
    documents, characters = one.measures.languages, one.measures.language_characters
    ordered = sorted(documents.items(), key=lambda entry: (-entry[1], entry[0]))
    in_all, whole = sum(documents.values()), sum(characters.values())
    rows: list[Sequence[object]] = [
        _language(clip(name, _NAME), count, in_all, characters[name], whole) for name, count in ordered[:_LANGUAGES]
    ]
    rest = ordered[_LANGUAGES:]
    if rest:
        count, long = sum(n for _, n in rest), sum(characters[name] for name, _ in rest)
        rows.append(_language(plural(len(rest), "other"), count, in_all, long, whole))
    columns = [Column("language"), Column("documents", "num"), Column("of them", "num"), Column("of characters", "num"),
               Column("documents", "drawn")]  # fmt: skip
    return table(f"Languages of {one.name}{_NAMED[kind]}", columns, rows)


def _language(name: str, count: int, documents: int, long: int, characters: int) -> tuple[object, ...]:
    return (
        name, number(count), percent(count, documents), percent(long, characters),
        bar([(count / max(documents, 1), "kept")]),
    )  # fmt: skip

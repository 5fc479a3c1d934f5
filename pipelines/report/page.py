"""The page: its head, what comes first, and the order of its sections."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from pipelines.report.accounts import Funnel, alarms, broken, funnel, missing, total
from pipelines.report.blocks import path, section
from pipelines.report.gather import Numbers
from pipelines.report.markup import Html, duration, large, number, percent, tag
from pipelines.report.sections import documents, duplicates, machine, mixture, rules, sources
from pipelines.report.style import CSS

_SECTIONS = (
    ("mixture", "Mixture", mixture.section),
    ("documents", "What became of the documents", documents.section),
    ("duplicates", "Duplicates", duplicates.section),
    ("rules", "Quality rules", rules.section),
    ("sources", "Sources, lengths, languages", sources.section),
    ("time", "Time, memory, config", machine.section),
)


def page(numbers: Numbers, made: str) -> str:
    """The report as one HTML document. made: when, for reading."""
    name = numbers.directory.rstrip("/").rsplit("/", 1)[-1]
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in _SECTIONS]
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", "Report on ", path(name)),
            tag("p", path(numbers.directory), " · ", made, class_="quiet"),
            tag("nav", tag("ul", links), aria_label="Sections"),
        ),
        tag(
            "main",
            _notices(numbers),
            _tiles(numbers),
            [section(anchor, title, make(numbers)) for anchor, title, make in _SECTIONS],
        ),
    )
    return f"<!doctype html>\n{tag('html', _head(f'Report on {name}'), body, lang='en')}\n"


def _head(title: str) -> Html:
    # Nothing can be loaded or run, even if a defect let markup through.
    allowed = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Html(f"<style>{CSS}</style>"),
    )


def _notices(numbers: Numbers) -> list[Html]:
    go_on = "The same run command goes on from what is done; python -m pipelines status DIR says how far it is."
    notices = (
        ("Not in this report", missing(numbers), go_on, "notice plain"),
        ("These stages do not belong together", broken(numbers), "Run the config again.", "notice"),
        ("Alarms", alarms(numbers), None, "notice"),
    )
    return [_notice(title, told, end, kind) for title, told, end, kind in notices if told]


def _notice(title: str, sentences: Sequence[str], end: str | None, kind: str) -> Html:
    told = tag("ul", [tag("li", one) for one in sentences])
    return tag("section", tag("h2", title), told, tag("p", end) if end else None, class_=kind)


def _tiles(numbers: Numbers) -> Html:
    """The numbers a reader looks for first."""
    found = [one for one in map(funnel, numbers.components) if one is not None]
    told = [*_document_tiles(total(found))] if found else []
    tokens = [one.tokens.counts.get("tokens", 0) for one in numbers.components if one.tokens]
    if tokens:
        counted = "begin and end of documents included" if len(tokens) == len(numbers.components) else "so far"
        told.append(("tokens", large(sum(tokens)), counted))
    for length, view in numbers.views.items():
        if view is not None:
            held_out = sum(split.records for split in view.splits.validation.values())
            told.append(
                (f"records, length {length:,}", number(view.splits.train.records), f"and {held_out:,} for validation")
            )
    if numbers.facts is not None:
        told.append(("time", duration(numbers.facts.get("seconds", 0)), "the last command"))
    return tag("dl", [tag("div", tag("dt", a), tag("dd", b, tag("small", c))) for a, b, c in told], class_="tiles")


def _document_tiles(whole: Funnel) -> list[tuple[str, str, str]]:
    rejected, dropped = whole.removed(duplicates=False), whole.removed(duplicates=True)
    return [
        ("documents found", number(whole.found), "in all sources"),
        (
            "kept" if whole.finished else "left so far",
            number(whole.left),
            f"{percent(whole.left, whole.found)} of those found",
        ),
        ("rejected", number(rejected), percent(rejected, whole.found)),
        ("duplicates", number(dropped), percent(dropped, whole.found))
        if whole.deduplicated
        else ("duplicates", "–", "not finished"),
    ]

"""Accounts as text, a few lines a document, and as JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pipelines.explain.accounts import Account, Container, Document, View
from pipelines.sources.base import printable

_SPANS = 20  # spans of tokens listed for a document in a view; JSON lists all


def as_text(accounts: Sequence[Account]) -> str:
    """Accounts for a terminal; a blank line between them."""
    return "\n\n".join(
        "\n".join(_document(account) if isinstance(account, Document) else _container(account)) for account in accounts
    )


def as_json(accounts: Sequence[Account]) -> str:
    """A JSON array of accounts, a container's with `counts` and `documents`."""
    return json.dumps([asdict(account) for account in accounts], indent=1)


def _container(account: Container) -> Iterator[str]:
    total = sum(account.counts.values())
    yield f"{account.source}: {total:,} documents of {account.component}"
    for outcome, count in account.counts.items():
        yield f"{count:>10,} {outcome}"
    if total > len(account.documents):
        yield f"the first {len(account.documents)}:"
    for document in account.documents:
        yield f"  {_name(document)}: {'; '.join((_fate(document), *map(_in_view, document.views)))}"


def _document(document: Document) -> Iterator[str]:
    yield _name(document)
    if document.characters is not None:
        yield f"  {printable(document.language or '')}, {document.characters:,} characters, {document.words:,} words"
    yield f"  {_fate(document)}"
    if document.rejection is not None and document.rejection.sample:
        yield f"  it begins: {document.rejection.sample}"
    for view in document.views:
        yield from _view(view)


def _name(document: Document) -> str:
    return f"{document.source} ({document.id or f'unit {document.component}/{document.unit}, no id'})"


def _fate(document: Document) -> str:
    if document.rejection is not None:
        reason, detail = document.rejection.reason, document.rejection.detail
        return f"rejected by {document.stage}: {detail if detail.startswith(reason) else f'{reason}, {detail}'}"
    if document.drop is not None:
        drop = document.drop
        jaccard = f"Jaccard {drop.jaccard:.3f}{' (estimated)' if drop.estimated else ''}"
        how = jaccard if drop.reason == "near_duplicate" else "the same text"
        kept = f"{drop.kept_id} ({'of an earlier run' if drop.kept_before else drop.kept_source})"
        return f"dropped by {document.stage}: {drop.reason} of {kept}, {how}, cluster of {drop.cluster}"
    if document.fate == "undecided":
        return f"not decided yet: {document.stage} is not finished"
    return f"kept: {document.tokens:,} tokens"


def _view(view: View) -> Iterator[str]:
    yield f"  {_in_view(view)}"
    spans = itertools.groupby(view.records, lambda record: (record.start, record.start + record.length))
    for number, ((start, stop), held) in enumerate(spans):
        if number == _SPANS:
            yield "    … (--json lists all)"
            break
        places = [f"{record.shard} row {record.row}" for record in held]
        repeated = f" ({len(places)} times: repeated)" if len(places) > 1 else ""
        yield f"    tokens [{start}, {stop}): {', '.join(places)}{repeated}"
    for start, stop in view.unused:
        yield f"    tokens [{start}, {stop}): unused, no record holds their sequence"


def _in_view(view: View) -> str:
    records = f"{len(view.records):,} record{'' if len(view.records) == 1 else 's'}"
    return f"view {view.sequence_length}: {f'in {records}' if view.finished else 'not finished'}"

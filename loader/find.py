"""`find`: every record that holds tokens of a document; of a document in none, what became of it.

A document's records hold packed sequences of its unit, and the order says where those lie. So provenance is read of
the shards alone that hold one of the unit's sequences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from loader.origins import Id, Origins
from loader.printable import escaped
from loader.sources import find_source
from loader.view import IntArray, View
from schemas.errors import TokenmillError

Facts = dict[str, Any]


def find_path(view: View, path: str) -> list[Facts]:
    """What `find` says of each document of a source, and of what ingest rejected there; `sources` has the rule.

    Raises:
        Refused: there is no run beside the view.
        TokenmillError: no source fits, the end of a path fits several, or a file is damaged.
    """
    origins = Origins.of(view)
    matches = find_source(origins, path)
    ids = [match.id for match in matches if match.id is not None]
    by_id = {facts["document"]: facts for facts in _accounts(view, origins, ids)}
    return [
        by_id[match.id]
        if match.id is not None
        else {
            **_account(None, match.source, "rejected"),
            "rejection": {"stage": "ingest", "reason": match.reason, "detail": match.detail},
        }
        for match in matches
    ]


def find_documents(view: View, documents: Sequence[str]) -> list[Facts]:
    """What `find` says of documents, given by their ids. Those of one unit cost hardly more than one of them.

    The facts of each: `document`, `source`, `outcome` (`kept`, `dropped`, `rejected` or `unknown`), `tokens`, `drop`,
    `rejection`, `records` (of each `split`, `shard`, `row`, `position` in epoch 0, `repeat`, `start`, `length`,
    `at`) and `unused`, the spans [start, stop) of its tokens that are in no record.

    Raises:
        Refused: no unit of the view has documents of such an id.
        TokenmillError: there is no such document, or a file is absent or damaged.
    """
    return _accounts(view, Origins.of(view), documents)


def find_lines(facts: Facts) -> Iterator[str]:
    """A document's account for reading."""
    source = f" ({escaped(facts['source'])})" if facts["source"] is not None and facts["document"] else ""
    yield f"{facts['document'] or escaped(facts['source'])}{source}: {_outcome(facts)}"
    for held in facts["records"]:
        where = "validation" if held["position"] is None else f"position {held['position']}"
        again = f", repeat {held['repeat']}" if held["repeat"] else ""
        yield (
            f"  tokens [{held['start']}, {held['start'] + held['length']}): {where}{again}, "
            f"{held['shard']} row {held['row']} from token {held['at']}"
        )
    for start, stop in facts["unused"]:
        yield f"  tokens [{start}, {stop}): unused, no record holds their sequence"


def slots_of_unit(view: View, component: str, unit: int) -> tuple[IntArray, IntArray, IntArray]:
    """(shard, row, repeat) of every record that holds a sequence of a unit, each int64, by shard and row."""
    c = view.order.names.index(component)
    uses: list[tuple[IntArray, IntArray, IntArray]] = []
    for split in ("train", "validation"):
        ends = view.packed.ends(split, c)
        sequences = np.arange(ends[unit - 1] if unit else 0, ends[unit], dtype=np.int64)
        if split == "train" and len(sequences):
            for use in range(-(-view.order.counts[c] // view.order.available[c])):
                n = view.order.positions_of(c, sequences, use)
                place = view.order.locate(n[n >= 0])
                uses.append((*place, np.full_like(place[0], use)))
        elif len(sequences):
            uses.append((*view.locate_held_out(c, sequences), np.zeros_like(sequences)))
    if not uses:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    shard, row, repeat = (np.concatenate(part) for part in zip(*uses, strict=True))
    by_slot = np.lexsort((row, shard))
    return shard[by_slot], row[by_slot], repeat[by_slot]


def _accounts(view: View, origins: Origins, documents: Sequence[str]) -> list[Facts]:
    parsed = [origins.parse(document) for document in documents]
    about = origins.about(documents)
    records = _records(view, parsed)
    found = []
    for id_ in map(str, parsed):
        facts = _account(id_, about[id_].source, "unknown")
        if about[id_].source is None and origins.has_documents(id_):
            raise TokenmillError(f"{id_}: there is no such document: its unit has fewer")
        facts["records"], facts["tokens"] = records[id_], about[id_].tokens
        if facts["records"] or facts["tokens"] is not None:
            facts["outcome"] = "kept"
        elif (drop := origins.drop(id_)) is not None:
            kept = drop["kept_id"]
            own = "#" not in kept  # else it is an earlier run's document, RUN#id
            facts |= {
                "outcome": "dropped",
                "drop": drop | {"kept_source": origins.about([kept])[kept].source if own else None},
            }
            del drop["id"]
        elif (refusal := origins.refusal(id_)) is not None:
            facts |= {"outcome": "rejected", "rejection": {"stage": "tokenize", **refusal}}
        if facts["tokens"] is not None:
            facts["unused"] = list(_gaps(facts["records"], facts["tokens"]))
        found.append(facts)
    return found


def _account(id_: str | None, source: str | None, outcome: str) -> Facts:
    return {
        "document": id_,
        "source": source,
        "outcome": outcome,
        "tokens": None,
        "drop": None,
        "rejection": None,
        "records": [],
        "unused": [],
    }


def _records(view: View, documents: Sequence[Id]) -> dict[str, list[Facts]]:
    """The records that hold tokens of documents, by id; those of a document by start, then by shard and row."""
    by_unit: dict[tuple[str, int], list[str]] = defaultdict(list)
    for document in documents:
        by_unit[document.component, document.unit].append(str(document))
    found: dict[str, list[Facts]] = {str(document): [] for document in documents}
    for (component, unit), ids in by_unit.items():
        shards, rows, repeats = slots_of_unit(view, component, unit)
        repeat_of = dict(zip(zip(shards.tolist(), rows.tolist(), strict=True), repeats.tolist(), strict=True))
        for number in np.unique(shards).tolist():
            shard = view.shards[number]
            for piece in view.pieces_of(number, pa.array(ids, pa.string())):
                train = shard.component < 0
                found[piece["document"]].append(
                    {
                        "split": "train" if train else "validation",
                        "shard": shard.file.path,
                        "row": piece["row"],
                        "position": int(view.order.position_of(number, piece["row"])) if train else None,
                        "repeat": repeat_of.get((number, piece["row"]), 0),
                        "start": piece["start"],
                        "length": piece["length"],
                        "at": piece["at"],
                    }
                )
    for records in found.values():
        records.sort(key=lambda held: (held["start"], held["repeat"], held["shard"], held["row"]))
    return found


def _gaps(records: Sequence[Facts], tokens: int) -> Iterator[tuple[int, int]]:
    """Spans [start, stop) of [0, tokens) that no record holds. records: by ascending start."""
    at = 0
    for held in records:
        if held["start"] > at:
            yield at, held["start"]
        at = max(at, held["start"] + held["length"])
    if at < tokens:
        yield at, tokens


def _outcome(facts: Facts) -> str:
    if facts["drop"] is not None:
        drop = facts["drop"]
        kept = f"{drop['kept_id']} ({escaped(drop['kept_source'])})" if drop["kept_source"] else drop["kept_id"]
        alike = f", Jaccard {drop['jaccard']:.3f}" if drop["reason"] == "near_duplicate" else ""
        return f"dropped by dedup: {drop['reason']} of {kept}{alike}"
    if facts["rejection"] is not None:
        rejection = facts["rejection"]
        detail = escaped(rejection["detail"])
        return f"rejected by {rejection['stage']}: {rejection['reason']}{f', {detail}' if detail else ''}"
    if facts["outcome"] == "unknown":
        return "in no record of this view"
    tokens = f"{facts['tokens']:,} tokens, " if facts["tokens"] is not None else ""
    count = len(facts["records"])
    repeats = sum(held["repeat"] > 0 for held in facts["records"])
    again = f", {repeats:,} of them repeats" if repeats else ""
    return f"kept, {tokens}in {count:,} record{'' if count == 1 else 's'} of this view{again}"

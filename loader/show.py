"""`show`: one record as text, its documents and special tokens marked.

The facts of a record, which `trace` begins with too, say where it lies, what the order puts there and which documents
it holds. `show` adds what the tokens stand for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from loader.origins import Origins
from loader.printable import escaped, marked
from loader.slots import Slot
from loader.view import IntArray, View
from loader.vocabulary import Vocabulary

Facts = dict[str, Any]
_IDS_A_LINE = 16


def record_facts(view: View, slot: Slot, origins: Origins) -> Facts:
    """A record's place and the spans in it, as JSON values; sources and totals are None where there is no run."""
    spans = view.spans(slot.shard, slot.row)
    about = origins.about(span.document for span in spans)
    return {
        "view": str(view.folder),
        "split": slot.split,
        "position": slot.position,
        "epoch": slot.epoch,
        "shard": view.shards[slot.shard].file.path,
        "row": slot.row,
        "component": slot.component,
        "sequence": slot.sequence,
        "repeat": slot.repeat,
        "padding": view.capacity - sum(span.length for span in spans),
        "spans": [
            {
                "at": span.at,
                "document": span.document,
                "source": about[span.document].source,
                "start": span.start,
                "length": span.length,
                "of": about[span.document].tokens,
            }
            for span in spans
        ],
    }


def show(view: View, slot: Slot, vocabulary: Vocabulary | None, ids: bool = False) -> Facts:
    """The facts of a record, with what its tokens stand for.

    Each span gets `parts`, in order: {"text": …} or {"special": name}. ids: each gets `tokens`, too; without a
    vocabulary it gets them alone.

    Raises:
        TokenmillError: a file is absent or damaged.
    """
    facts = record_facts(view, slot, Origins.of(view))
    tokens = view.tokens(slot.shard, [slot.row])[0].astype(np.int64)
    for span in facts["spans"]:
        held = tokens[span["at"] : span["at"] + span["length"]]
        if vocabulary is not None:
            span["parts"] = _parts(held, vocabulary)
        if ids or vocabulary is None:
            span["tokens"] = held.tolist()
    return facts


def record_lines(facts: Facts) -> Iterator[str]:
    """Where a record lies, for reading."""
    uses = f", repeat {facts['repeat']} of it" if facts["repeat"] else ""
    if facts["position"] is None:
        yield f"validation record of {facts['component']}, {facts['shard']} row {facts['row']}"
    else:
        yield f"position {facts['position']} (epoch {facts['epoch']}): {facts['shard']} row {facts['row']}"
        yield f"  component {facts['component']}, packed sequence {facts['sequence']}{uses}"
    held = sum(span["length"] for span in facts["spans"])
    documents = len({span["document"] for span in facts["spans"]})
    yield f"  {held:,} tokens of {documents} document{'' if documents == 1 else 's'}, {facts['padding']:,} padding"


def span_line(span: Facts) -> str:
    """A span, for reading."""
    source = f" ({escaped(span['source'])})" if span["source"] is not None else ""
    whole = f" of {span['of']:,}" if span["of"] is not None else ""
    return f"{span['document']}{source}: tokens [{span['start']}, {span['start'] + span['length']}){whole}"


def show_lines(facts: Facts, ids: bool = False) -> Iterator[str]:
    """The record for reading: every line of text begins with `  | `, so that nothing in it passes for a heading."""
    yield from record_lines(facts)
    for span in facts["spans"]:
        yield f"-- {span_line(span)}"
        if ids or "parts" not in span:
            tokens = span["tokens"]
            for first in range(0, len(tokens), _IDS_A_LINE):
                yield "  | " + " ".join(map(str, tokens[first : first + _IDS_A_LINE]))
        else:
            text = "".join(
                marked(p["special"]) if "special" in p else escaped(p["text"], "\n\t") for p in span["parts"]
            )
            yield from ("  | " + line for line in text.split("\n"))
    if facts["padding"]:
        yield f"-- {facts['padding']:,} padding"
    if not all("parts" in span for span in facts["spans"]):
        yield "These are ids: there is no tokenizer beside this view; give RUN/tokenizer/tokenizer.model as --tokenizer"


def _parts(tokens: IntArray, vocabulary: Vocabulary) -> list[Facts]:
    """Runs of text, and special tokens."""
    ids = tokens.tolist()
    specials = [at for at, id_ in enumerate(ids) if vocabulary.special(id_) is not None]
    parts: list[Facts] = []
    first = 0
    for at in [*specials, len(ids)]:
        if first < at:
            parts.append({"text": vocabulary.text(ids[first:at])})
        if at < len(ids):
            parts.append({"special": vocabulary.special(ids[at])})
        first = at + 1
    return parts

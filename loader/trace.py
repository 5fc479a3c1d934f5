"""`trace`: from a record, or one token of it, back to the documents; to the line and character where it can be proved.

A token's place in a text follows from the bytes of the document's tokens before it. It is given only when the
bytes of all of them, put in reading order where fill-in-the-middle moved them, are the document's cleaned text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loader.origins import Origins
from loader.printable import escaped, marked
from loader.show import record_facts, record_lines, span_line
from loader.slots import Slot
from loader.view import IntArray, View
from loader.vocabulary import Vocabulary
from schemas.errors import Refused
from schemas.manifest import TokenizerInfo

Facts = dict[str, Any]
_WIDTH = 100  # characters shown of the line


@dataclass(frozen=True)
class TextPlace:
    """Where a token lies in a text.

    character: its first character, in code points from 0, or the one it begins inside of. line, column: the
    same, both from 1. text_line: that line.
    """

    character: int
    line: int
    column: int
    text_line: str


def trace(view: View, slot: Slot, vocabulary: Vocabulary | None, token: int | None = None) -> Facts:
    """The facts of a record (`show.record_facts`) and, under `token`, of one of its tokens, counted from 0.

    A token's facts are `at`, `id`, `text` and `special` (None without a vocabulary), `document`, `offset` (of the
    document's tokens), `source`, `place` (TextPlace or None) and `unplaced`, why there is no place.

    Raises:
        Refused: the record has no such token, or it is padding.
        TokenmillError: a file is absent or damaged.
    """
    origins = Origins.of(view)
    facts = record_facts(view, slot, origins)
    if token is not None:
        facts["token"] = _token_facts(view, slot, vocabulary, origins, facts, token)
    return facts


def place_in_text(
    tokens: IntArray, offset: int, text: str, vocabulary: Vocabulary, info: TokenizerInfo
) -> TextPlace | None:
    """The place of a document's token in its text; None when the tokens' bytes are not the text's.

    tokens: all of the document, int64 [tokens]. offset: of a token that stands for text.
    """
    pieces = [vocabulary.data(id_) for id_ in tokens.tolist()]
    reading = _reading_order(tokens, info)
    data = text.encode()
    if b"".join([pieces[i] for i in reading.tolist()]) != data:
        return None
    sizes = np.array([len(piece) for piece in pieces], np.int64)[reading]
    at = int(sizes[: int(np.flatnonzero(reading == offset)[0])].sum())
    while data[at] & 0xC0 == 0x80:  # a byte within a character
        at -= 1
    begin = data.rfind(b"\n", 0, at) + 1
    end = data.find(b"\n", at)
    line = data[begin : end if end >= 0 else len(data)].decode()
    return TextPlace(len(data[:at].decode()), data.count(b"\n", 0, at) + 1, len(data[begin:at].decode()) + 1, line)


def trace_lines(facts: Facts) -> Iterator[str]:
    """A trace for reading."""
    yield from record_lines(facts)
    for span in facts["spans"]:
        yield f"  at {span['at']}: {span_line(span)}"
    if "token" in facts:
        yield from _token_lines(facts["token"])


def _token_facts(
    view: View, slot: Slot, vocabulary: Vocabulary | None, origins: Origins, facts: Facts, token: int
) -> Facts:
    held = view.capacity - facts["padding"]
    if not 0 <= token < view.capacity:
        raise Refused(f"there is no token {token}: a record has {view.capacity}, the first is 0")
    if token >= held:
        raise Refused(f"token {token} is padding: this record holds {held} tokens, 0 to {held - 1}")
    span = next(span for span in reversed(facts["spans"]) if span["at"] <= token)
    id_ = int(view.tokens(slot.shard, [slot.row])[0][token])
    offset = span["start"] + token - span["at"]
    special = vocabulary.special(id_) if vocabulary is not None else None
    found: Facts = {
        "at": token,
        "id": id_,
        "text": vocabulary.text([id_]) if vocabulary is not None and special is None else None,
        "special": special,
        "document": span["document"],
        "offset": offset,
        "source": span["source"],
        "place": None,
        "unplaced": None,
    }
    if vocabulary is None:
        return found | {"unplaced": "the tokenizer is not there; give its model as --tokenizer"}
    if special is not None:
        return found | {"unplaced": "a special token stands for no text"}
    text, tokens = origins.text(span["document"]), origins.tokens(span["document"])
    if text is None or tokens is None:
        return found | {"unplaced": "the run's documents and tokens are not beside this view"}
    if len(tokens) <= offset or tokens[offset] != id_:
        return found | {"unplaced": "the document's tokens are others; verify says more"}
    place = place_in_text(tokens, offset, text, vocabulary, view.manifest.tokenizer)
    return found | ({"unplaced": "the document's tokens do not decode to its text"} if place is None else
                    {"place": asdict(place)})  # fmt: skip


def _reading_order(tokens: IntArray, info: TokenizerInfo) -> IntArray:
    """The indices of a document's tokens in the order of its text: the middle before the suffix where there is FIM."""
    every = np.arange(len(tokens), dtype=np.int64)
    at = [np.flatnonzero(tokens == id_) for id_ in (info.fim_begin, info.fim_hole, info.fim_end)]
    if any(len(found) != 1 for found in at):
        return every
    _, hole, end = (int(found[0]) for found in at)
    return np.concatenate((every[:hole], every[end:], every[hole:end]))


def _token_lines(token: Facts) -> Iterator[str]:
    shown = f", {marked(token['special'])}" if token["special"] is not None else ""
    if token["text"] is not None:
        shown = f", {escaped(repr(token['text']))}"
    yield f"token {token['at']}: id {token['id']}{shown}"
    source = f" ({escaped(token['source'])})" if token["source"] is not None else ""
    yield f"  is token {token['offset']} of {token['document']}{source}"
    if token["place"] is None:
        yield f"  no place in the text: {token['unplaced']}"
        return
    place = token["place"]
    yield (
        f"  line {place['line']}, column {place['column']}, character {place['character']} of the cleaned text "
        "(exact: the document's tokens decode to it)"
    )
    first = max(0, place["column"] - 1 - _WIDTH // 2)
    yield "  | " + escaped(place["text_line"][first : first + _WIDTH], "\t")

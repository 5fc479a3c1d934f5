"""What the records hold against the tokens they come from, one bucket of units at a time (see `pieces`).

Checked are: the tokens of every piece; that no token is in two sequences; that a repeat holds what its sequence holds;
that no document is in train and in validation; that validation holds all of its documents.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from loader.layout import Shard
from loader.progress import Progress
from loader.verify.findings import Findings
from loader.verify.ids import IntArray
from loader.verify.layout import PackedUnits
from loader.verify.pieces import PIECE, Pieces, Spill
from loader.verify.records import RecordFormat
from loader.verify.tables import Unreadable, whole_table
from schemas.arrow import tokens_schema

_AT_ONCE = 1 << 20  # pieces


@dataclass(frozen=True)
class BucketTokens:
    """The tokens of a bucket's documents.

    keys: int64 [documents], ascending. offsets: in tokens, int64 [documents + 1]. data: the tokens end to end.
    unread: units whose tokens are not as stated.
    """

    keys: IntArray
    offsets: IntArray
    data: bytearray
    unread: tuple[int, ...]


class SpanCheck:
    """The check of a view's pieces. token_files: of each unit, or empty when only the view is at hand."""

    def __init__(
        self,
        findings: Findings,
        folder: Path,
        shards: list[Shard],
        sound: list[bool],
        record: RecordFormat,
        packed: PackedUnits,
        spill: Spill,
        token_files: list[Path | None],
    ) -> None:
        self._findings, self._folder, self._shards, self._sound = findings, folder, shards, sound
        self._record, self._packed, self._spill, self._token_files = record, packed, spill, token_files
        self._train_shards = sum(shard.component < 0 for shard in shards)

    def check(self, complete: bool, progress: Progress) -> None:
        """Check every bucket. complete: whether all shards' pieces are there, so that sums may be compared."""
        covered = {split: np.zeros(self._packed.units.total, np.int64) for split in ("train", "validation")}
        for bucket in range(self._spill.buckets):
            tokens = self._load(self._spill.units(bucket)) if self._token_files else None
            first_uses = [np.empty(0, PIECE)]
            again = False
            for pieces in self._spill.read(bucket, _AT_ONCE):
                if tokens is not None:
                    self._compare(pieces, tokens)
                first_uses.append(pieces[pieces["repeat"] == 0])
                again = again or len(first_uses[-1]) < len(pieces)
            once = np.concatenate(first_uses)
            self._check_once(once)
            if again:
                self._check_repeats(bucket, once[once["shard"] < self._train_shards])
            held_out = once["shard"] >= self._train_shards
            for split, part in (("train", once[~held_out]), ("validation", once[held_out])):
                np.add.at(covered[split], part["unit"], part["length"])
            progress.advance()
        if complete:
            self._check_sums(covered)

    def _load(self, units: range) -> BucketTokens:
        keys, lengths, data, unread = [np.empty(0, np.int64)], [np.empty(0, np.int64)], bytearray(), []
        schema = tokens_schema(self._record.dtype.name)
        for unit in units:
            path = self._token_files[unit]
            if path is None:
                unread.append(unit)
                continue
            try:
                table = whole_table(path, schema, ["id", "tokens"])
            except Unreadable:  # reported where the file itself is checked
                unread.append(unit)
                continue
            for ids, tokens in zip(table["id"].chunks, table["tokens"].chunks, strict=True):
                _, rows = self._packed.units.parse(ids)
                keys.append(_keys(np.full(len(rows), unit), rows))
                lengths.append(tokens.value_lengths().to_numpy().astype(np.int64))
                data += memoryview(tokens.flatten().to_numpy().astype(self._record.dtype, copy=False)).cast("B")
        offsets = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
        return BucketTokens(np.concatenate(keys), offsets, data, tuple(unread))

    def _compare(self, pieces: Pieces, tokens: BucketTokens) -> None:
        """The tokens of each piece in its record against those of its document."""
        pieces = pieces[~np.isin(pieces["unit"], tokens.unread) & np.array(self._sound)[pieces["shard"]]]
        key = _keys(pieces["unit"], pieces["row"])
        document = np.minimum(np.searchsorted(tokens.keys, key), max(len(tokens.keys) - 1, 0))
        known = tokens.keys[document] == key if len(tokens.keys) else np.zeros(len(key), bool)
        self._report(pieces[~known], "which has no tokens")
        pieces, document = pieces[known], document[known]
        fits = pieces["start"] + pieces["length"] <= np.diff(tokens.offsets)[document]
        self._report(pieces[~fits], "beyond that document's end")
        pieces, document = pieces[fits], document[fits]
        item = self._record.dtype.itemsize
        sizes = pieces["length"].astype(np.int64) * item
        theirs = (tokens.offsets[document] + pieces["start"]) * item
        ours = pieces["record"] * self._record.size + len(self._record.head) + pieces["at"].astype(np.int64) * item
        bounds = np.flatnonzero(np.diff(pieces["shard"], prepend=-1, append=-1)).tolist()
        for first, end in pairwise(bounds):
            path = self._folder / self._shards[pieces["shard"][first]].file.path
            spans = zip(ours[first:end].tolist(), theirs[first:end].tolist(), sizes[first:end].tolist(), strict=True)
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as shard:
                differ = [i for i, (a, b, n) in enumerate(spans) if shard[a : a + n] != tokens.data[b : b + n]]
            self._report(pieces[first:end][differ], "and has other tokens there")
        self._findings.checked["tokens compared"] += int(pieces["length"].sum())

    def _check_once(self, once: Pieces) -> None:
        """No token is in two sequences, no document in both splits."""
        key = _keys(once["unit"], once["row"])
        by_place = np.lexsort((once["start"], key))
        key, once = key[by_place], once[by_place]
        same = key[1:] == key[:-1]
        overlap = same & (once["start"][1:] < once["start"][:-1] + once["length"][:-1])
        self._report(once[1:][overlap], "some of which are in another sequence too")
        held_out = once["shard"] >= self._train_shards
        both = np.intersect1d(key[held_out], key[~held_out])
        self._report(once[np.searchsorted(key, both)], "which is in train and in validation")

    def _check_repeats(self, bucket: int, once: Pieces) -> None:
        """A sequence used again holds the same pieces at the same places."""
        place = _places(once, self._record.capacity)
        by_place = np.argsort(place, kind="stable")
        place, once = place[by_place], once[by_place]
        uses = np.zeros(len(once), np.int64)
        for every in self._spill.read(bucket, _AT_ONCE):
            pieces = every[every["repeat"] > 0]
            at = np.minimum(np.searchsorted(place, _places(pieces, self._record.capacity)), max(len(place) - 1, 0))
            alike = np.full(len(pieces), len(once) > 0)
            if len(once):
                for name in ("sequence", "at", "unit", "row", "start", "length"):
                    alike &= once[name][at] == pieces[name]
            self._report(pieces[~alike], "which the first use of the same sequence does not")
            uses += np.bincount(at[alike], minlength=len(once))
        uneven = np.flatnonzero((np.diff(once["sequence"]) == 0) & (np.diff(uses) != 0))
        self._report(once[uneven], "which not every repeat of the same sequence does")

    def _check_sums(self, covered: dict[str, IntArray]) -> None:
        """Of every unit, validation holds all tokens held out, and train no more than there are."""
        path = self._folder / "units.parquet"
        held_out, train = self._packed.tokens["validation"], self._packed.tokens["train"]
        name = self._packed.units.name
        wrong = np.flatnonzero(covered["validation"] != held_out).tolist()
        self._findings.each(
            path,
            (
                f"validation records hold {covered['validation'][u]} tokens of {name(u)}, not {held_out[u]}"
                for u in wrong
            ),
        )
        wrong = np.flatnonzero(covered["train"] > train).tolist()
        self._findings.each(
            path, (f"train records hold {covered['train'][u]} tokens of {name(u)}, which has {train[u]}" for u in wrong)
        )

    def _report(self, pieces: Pieces, what: str) -> None:
        """One problem a piece, by shard."""
        for number in np.unique(pieces["shard"]).tolist():
            path = self._folder / self._shards[number].file.path
            self._findings.each(path, (f"{self._told(piece)}, {what}" for piece in pieces[pieces["shard"] == number]))

    def _told(self, piece: np.void) -> str:
        document = f"{self._packed.units.name(int(piece['unit']))}/{piece['row']}"
        first, last = piece["start"], piece["start"] + piece["length"] - 1
        return f"record {piece['record']} holds tokens {first} to {last} of document {document}"


def _keys(units: Iterable[int] | IntArray, rows: IntArray) -> IntArray:
    """A document as one number: unit << 32 | row, int64."""
    return np.asarray(units, np.int64) << 32 | np.asarray(rows, np.int64)


def _places(pieces: Pieces, capacity: int) -> IntArray:
    """A place in a packed sequence as one number, int64."""
    return pieces["sequence"] * capacity + pieces["at"]

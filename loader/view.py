"""A view opened to look things up: its order, one record by its offset, the documents provenance names for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loader.layout import Shard, order_of, shards_of
from loader.locate import MANIFEST, Place
from loader.verify.layout import PackedUnits, read_packed
from loader.verify.tables import Unreadable
from schemas import manifest
from schemas.errors import Refused, TokenmillError
from schemas.manifest import ShardManifest
from schemas.order import Order
from schemas.record import CorruptRecord, Tokens, decode_example, end_checksums, frame, record_size

IntArray = npt.NDArray[np.int64]
_HEADER_BYTES, _FOOTER_BYTES = 12, 4  # of a TFRecord frame


@dataclass(frozen=True)
class Span:
    """Tokens [start, start + length) of a document, which stand in a record from its token `at` on."""

    document: str
    start: int
    length: int
    at: int


@dataclass(frozen=True, eq=False)
class View:
    """A view on this machine. shards: train in shard order, then validation by component."""

    folder: Path
    manifest: ShardManifest
    order: Order
    shards: tuple[Shard, ...]

    @property
    def capacity(self) -> int:
        """Tokens of a record, padding included: sequence_length + 1."""
        return self.manifest.sequence_length + 1

    @cached_property
    def packed(self) -> PackedUnits:
        """The packed sequences of each unit. Raises TokenmillError when units.parquet is absent or damaged."""
        path = self.folder / self.manifest.units.path
        try:
            return read_packed(path, self.order.names)
        except Unreadable as error:
            raise TokenmillError(f"{path}: {error}") from None

    @property
    def run(self) -> Path | None:
        """The run directory the view lies in; None for a view that was copied out of its run."""
        above = self.folder.resolve().parent
        return above.parent if above.name == "shards" and (above.parent / "tokenizer").is_dir() else None

    def held_out(self, component: int) -> list[int]:
        """The numbers of a component's validation shards."""
        return [number for number, shard in enumerate(self.shards) if shard.component == component]

    def locate_held_out(self, component: int, record: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """(shard, row), int64 each, of held-out records of a component, counted over its validation shards."""
        shards = np.array(self.held_out(component), np.int64)
        firsts = np.array([self.shards[number].first for number in shards.tolist()], np.int64)
        which = np.searchsorted(firsts, record, side="right") - 1
        return shards[which], np.asarray(record, np.int64) - firsts[which]

    def tokens(self, shard: int, rows: npt.ArrayLike) -> Tokens:
        """The records in some rows of a shard, [rows, capacity], each read by its offset, its checksums checked.

        Raises:
            TokenmillError: the file is absent or not of the stated size, or a record is damaged; names it.
        """
        about = self.shards[shard].file
        path = self.folder / about.path
        size = record_size(self.manifest.sequence_length, self.manifest.token_dtype)
        wanted = np.asarray(rows, np.int64).tolist()
        found = np.empty((len(wanted), self.capacity), self.manifest.token_dtype)
        try:
            with open(path, "rb", buffering=0) as file:
                if (there := os.fstat(file.fileno()).st_size) != about.bytes:
                    raise TokenmillError(f"{path}: has {there:,} bytes, the manifest states {about.bytes:,}")
                if end_checksums(file, size, about.records) != about.ends:
                    raise TokenmillError(f"{path}: is another shard: the checksums at its ends differ")
                for at, row in enumerate(wanted):
                    data = os.pread(file.fileno(), size, row * size)
                    payload = data[_HEADER_BYTES:-_FOOTER_BYTES]
                    if len(data) < size or frame(payload) != data:
                        raise CorruptRecord(f"{path}: record {row} is damaged: its checksum or its length differs")
                    record = decode_example(payload, self.manifest.token_dtype)
                    if len(record) != self.capacity:
                        raise CorruptRecord(f"{path}: record {row} holds {len(record)} tokens, not {self.capacity}")
                    found[at] = record
        except OSError as error:
            raise TokenmillError(f"{path}: cannot be read: {error.strerror}") from None
        return found

    def spans(self, shard: int, row: int) -> tuple[Span, ...]:
        """The pieces of documents a record holds, in order.

        Provenance is sorted by row, and of other columns than `row` only the row groups with this one are read.

        Raises:
            TokenmillError: provenance is absent or damaged, or gives the record no tokens or too many.
        """
        path = self.folder / self.shards[shard].provenance
        spans: list[Span] = []
        at = 0
        for _, table in _row_groups(path, row):
            for piece in table.to_pylist():
                spans.append(Span(piece["document"], piece["start"], piece["length"], at))
                at += piece["length"]
        if not 0 < at <= self.capacity:
            raise TokenmillError(f"{path}: gives row {row} {at} tokens; a record holds 1 to {self.capacity}")
        return tuple(spans)

    def pieces_of(self, shard: int, documents: pa.Array) -> list[dict[str, Any]]:
        """Every piece of these documents in a shard: `document`, `row`, `start`, `length`, `at`, in record order."""
        path = self.folder / self.shards[shard].provenance
        found: list[dict[str, Any]] = []
        last, filled = -1, 0  # the record the row group before ended in, and its tokens so far
        for rows, table in _row_groups(path):
            lengths = table["length"].to_numpy()
            starts = np.cumsum(lengths) - lengths
            at = starts - starts[np.searchsorted(rows, rows)]  # less where the piece's record starts
            at[rows == last] += filled
            held = table["document"].combine_chunks().dictionary_encode()
            wanted = pc.is_in(held.dictionary, value_set=documents).to_numpy(zero_copy_only=False)
            for i in np.flatnonzero(wanted[held.indices.to_numpy()]).tolist():
                piece = {name: table[name][i].as_py() for name in ("document", "start", "length")}
                found.append(piece | {"row": int(rows[i]), "at": int(at[i])})
            last, filled = int(rows[-1]), int(at[-1] + lengths[-1])
        return found


def open_view(place: Place, length: int | None = None) -> View:
    """The view a place is, or the one of a run that has this sequence length.

    Raises:
        Refused: there is no view, none of this length, or a run has several and `length` does not say which.
        TokenmillError: the manifest is broken.
    """
    folder = place.folder
    if place.kind == "stage":
        raise Refused(f"{folder}: the folder of a stage holds no records; give a run or a view, RUN/shards/LENGTH")
    if place.kind == "view":
        view = view_of(folder, manifest.load(ShardManifest, folder / MANIFEST))
        if length not in (None, view.manifest.sequence_length):
            raise Refused(f"{folder}: is a view of length {view.manifest.sequence_length}, not {length}")
        return view
    found = {
        int(path.parent.name): path for path in folder.glob(f"shards/*/{MANIFEST}") if path.parent.name.isdecimal()
    }
    if not found:
        raise Refused(f"{folder}: no view of this run is finished; run its config to the end first")
    names = ", ".join(map(str, sorted(found)))
    if length is None and len(found) > 1:
        raise Refused(f"{folder}: has the views {names}; choose one with --view, such as --view {max(found)}")
    if length is not None and length not in found:
        raise Refused(f"{folder}: has no view {length}; there is: {names}")
    path = found[length if length is not None else min(found)]
    return view_of(path.parent, manifest.load(ShardManifest, path))


def view_of(folder: Path, whole: ShardManifest) -> View:
    """A view whose manifest is read already. Raises TokenmillError when its numbers make no order."""
    try:
        return View(folder, whole, order_of(whole), tuple(shards_of(whole)))
    except TokenmillError as error:
        raise TokenmillError(f"{folder / MANIFEST}: {error}") from None


def _row_groups(path: Path, row: int | None = None) -> Iterator[tuple[IntArray, pa.Table]]:
    """Of each row group of a provenance file its rows, int64 ascending, and `document`, `start` and `length`.

    With `row`, only the part that is this row's; the other columns are not read of row groups without it.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            for number in range(parquet.num_row_groups):
                rows = parquet.read_row_group(number, ["row"], use_threads=False)["row"].to_numpy()
                first, end = (0, len(rows)) if row is None else np.searchsorted(rows, [row, row + 1]).tolist()
                if first < end:
                    table = parquet.read_row_group(number, ["document", "start", "length"], use_threads=False)
                    yield rows[first:end], table.slice(first, end - first)
    except (OSError, pa.ArrowException, KeyError) as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise TokenmillError(f"{path}: cannot be read as provenance: {problem}") from None

"""From packed sequences to shards: each unit sends its sequences to their slots, each shard is written whole."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import stages
from pipelines.dedup.records import load, numbers, task_of
from pipelines.documents import check_unit_file
from pipelines.jobs import Run
from pipelines.parquet import read_table
from pipelines.plan import read_index
from pipelines.shard.layout import fill, layout_path
from pipelines.stages import Receipt
from schemas import manifest, storage
from schemas.arrow import PROVENANCE
from schemas.errors import TokenmillError
from schemas.order import Order
from schemas.record import end_checksums, frame_examples

# Where a record goes: its row in the shard, and which repeat of its sequence it is.
SLOT = np.dtype([("row", "<i8"), ("repeat", "<i8")])
# A piece of a record: its row in the shard, its document's number and its tokens in the document, in record order.
SPAN = np.dtype([("row", "<i8"), ("doc", "<u8"), ("start", "<i8"), ("length", "<i8")])
_RECORDS_AT_ONCE = 1024
SPLITS = ("train", "validation")
MIX = "mix.json"
FIRST = "first"  # int64 [units, splits], little-endian: of each unit, the index of its first sequence in its component


@dataclass(frozen=True)
class Mix:
    """Everything a worker needs to place a sequence; written once as JSON in the work folder.

    validation_rows: per component, records of each of its validation shards.
    """

    order: Order
    validation_rows: dict[str, list[int]]

    @property
    def train_shards(self) -> int:
        """G x V."""
        return self.order.groups * self.order.lanes

    @property
    def shards(self) -> int:
        """How many shards both splits have."""
        return self.train_shards + sum(len(rows) for rows in self.validation_rows.values())

    def shard(self, number: int) -> tuple[str, int, int]:
        """A shard: (file name, records, index of the component of a validation shard or -1)."""
        count = self.train_shards
        if number < count:
            return f"train-{number:05d}-of-{count:05d}.tfrecord", self.order.rows, -1
        k = number - count
        for index, (name, rows) in enumerate(self.validation_rows.items()):
            if k < len(rows):
                return f"validation-{name}-{k:05d}-of-{len(rows):05d}.tfrecord", rows[k], index
            k -= len(rows)
        raise IndexError(number)

    def first_validation_shard(self, component: str) -> int:
        """The number of a component's first validation shard."""
        before = self.train_shards
        for name, rows in self.validation_rows.items():
            if name == component:
                break
            before += len(rows)
        return before


@lru_cache(maxsize=2)
def read_mix(path: str) -> Mix:
    """The mix a driver wrote; read once a process."""
    content: dict[str, Any] = json.loads(storage.read_bytes(path))
    order = content.pop("order")
    for name in ("weights", "available", "names"):
        order[name] = tuple(order[name])
    return Mix(Order(**order), **content)


@dataclass(frozen=True)
class ShardWriter:
    """The two sides of the shuffle of one view.

    folder: receipts and spills; layouts: the work folder of the packed units.
    """

    folder: str
    layouts: str
    view: str
    capacity: int
    dtype: str
    pad: int

    def mix(self, run: Run) -> Mix:
        """The view's mix."""
        return read_mix(run.work(self.folder, MIX))

    def emit(self, run: Run, task: int) -> Iterator[tuple[int, bytes]]:
        """A unit's sequences, to the shards that hold them."""
        index = read_index(run)
        unit = index.unit(task)
        path = index.path(run, "tokens", "tokens", task)
        check_unit_file(run, task, "tokens", path)
        table = read_table(path, ["id", "tokens", "count"])
        tokens = table["tokens"].combine_chunks()
        flat = tokens.flatten().to_numpy()
        offsets = np.concatenate(([0], np.cumsum(table["count"].to_numpy())))
        docs = _document_numbers(task, table["id"].to_pylist())
        for split, first in zip(SPLITS, self._first(run, task), strict=True):
            pieces = load(layout_path(run, self.layouts, split, task))
            sequences = int(pieces["sequence"][-1]) + 1 if len(pieces) else 0
            matrix = fill(pieces, flat, offsets, sequences, self.capacity, self.pad)
            places = self._places(run, unit.component, split, first, sequences)
            yield from _blocks(pieces, docs, matrix, *places)

    def _first(self, run: Run, task: int) -> list[int]:
        """By split, the index of a unit's first sequence among its component's."""
        with storage.open_read(run.work(self.folder, FIRST)) as file:
            file.seek(8 * len(SPLITS) * task)
            first: list[int] = np.frombuffer(file.read(8 * len(SPLITS)), "<i8").tolist()
        return first

    def _places(
        self, run: Run, component: str, split: str, first: int, sequences: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Every use of a unit's sequences: (local sequence, shard, row, repeat), each int64 [uses], by (shard, row)."""
        mix = self.mix(run)
        local = np.arange(sequences, dtype=np.int64)
        if split == "validation":
            rows = np.array(mix.validation_rows[component], np.int64)
            ends = np.cumsum(rows)
            shard = np.searchsorted(ends, local + first, side="right")
            row = local + first - (ends - rows)[shard] if sequences else local
            return local, shard + mix.first_validation_shard(component), row, np.zeros_like(local)
        order = mix.order
        c = order.names.index(component)
        repeats = -(-order.counts[c] // order.available[c])
        uses = [order.positions_of(c, local + first, repeat) for repeat in range(repeats)]
        n = np.concatenate(uses)
        sequence = np.tile(local, len(uses))[n >= 0]
        repeat = np.repeat(np.arange(len(uses), dtype=np.int64), sequences)[n >= 0]
        shard, row = order.locate(n[n >= 0])
        by_slot = np.lexsort((row, shard))
        return sequence[by_slot], shard[by_slot], row[by_slot], repeat[by_slot]

    def receive(self, run: Run, number: int, blocks: Iterable[bytes]) -> None:
        """Write one shard, its provenance, and its receipt."""
        name, records, held_out = self.mix(run).shard(number)
        matrix = np.empty((records, self.capacity), self.dtype)
        slots = np.full(records, -1, np.int64)
        spans: list[npt.NDArray[np.void]] = []
        for block in blocks:
            slot, span, rows = _unpack(block, self.capacity, self.dtype)
            if (slots[slot["row"]] >= 0).any():
                raise TokenmillError(f"{name}: two sequences for one row; this is a defect, please report it")
            slots[slot["row"]] = slot["repeat"]
            matrix[slot["row"]] = rows
            spans.append(span)
        if (slots < 0).any():
            raise TokenmillError(
                f"{name}: row {int(np.argmin(slots))} got no sequence; this is a defect, please report it"
            )
        pieces = np.concatenate(spans)
        pieces = pieces[np.argsort(pieces["row"], kind="stable")]
        ends = ""

        def write(path: str) -> None:
            nonlocal ends
            ends = _write_records(path, matrix)

        written = run.commit(run.path(self.view, name), write)
        shard = manifest.File(path=name, records=records, bytes=written.bytes, sha256=written.sha256)
        provenance = self._write_provenance(run, name, pieces)
        unit = manifest.Unit(unit=number, counts=self._count(run, pieces, slots, held_out))
        facts = {"ends": ends}
        stages.write_receipt(run, self.folder, Receipt(task=number, files=(shard, provenance), unit=unit, facts=facts))

    def _write_provenance(self, run: Run, name: str, pieces: npt.NDArray[np.void]) -> manifest.File:
        index = read_index(run)
        docs, which = np.unique(pieces["doc"], return_inverse=True)
        names = pa.array([index.name(doc) for doc in docs.tolist()], pa.string()).take(pa.array(which))
        columns = {
            "shard": pa.array([name] * len(pieces), pa.string()),
            "row": pieces["row"],
            "document": names,
            "start": pieces["start"],
            "length": pieces["length"],
        }
        path = run.path(self.view, f"provenance-{name.removesuffix('.tfrecord')}.parquet")
        return stages.commit_table(run, path, [pa.table(columns, schema=PROVENANCE)], PROVENANCE)

    def _count(
        self, run: Run, pieces: npt.NDArray[np.void], repeats: npt.NDArray[np.int64], held_out: int
    ) -> dict[str, int]:
        """Tokens of first uses, of repeats and in train, by component; and padding."""
        index = read_index(run)
        component = index.component[task_of(pieces["doc"])]
        again = repeats[pieces["row"]] > 0
        counts = {"padding": len(repeats) * self.capacity - int(pieces["length"].sum())}
        for c, name in enumerate(index.components):
            mine = component == c
            counts[f"in_records.{name}"] = int(pieces["length"][mine & ~again].sum())
            counts[f"repeated.{name}"] = int(pieces["length"][mine & again].sum())
            if held_out < 0:
                counts[f"train.{name}"] = int(pieces["length"][mine].sum())
        return counts


def _document_numbers(task: int, ids: list[str]) -> npt.NDArray[np.uint64]:
    """The document numbers of a unit's document ids."""
    return numbers(task, np.array([int(id_.rsplit("/", 1)[1]) for id_ in ids], np.int64))


def _blocks(
    pieces: npt.NDArray[np.void],
    docs: npt.NDArray[np.uint64],
    matrix: npt.NDArray[np.integer],
    sequence: npt.NDArray[np.int64],
    shard: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
    repeat: npt.NDArray[np.int64],
) -> Iterator[tuple[int, bytes]]:
    """One block a shard: counts, slots, spans, tokens. Uses are sorted by shard."""
    first_piece = np.searchsorted(pieces["sequence"], np.arange(len(matrix) + 1))
    numbers, starts = np.unique(shard, return_index=True)
    for number, part in zip(numbers.tolist(), np.split(np.arange(len(shard)), starts[1:]), strict=False):
        uses = sequence[part]
        slots = np.empty(len(part), SLOT)
        slots["row"], slots["repeat"] = row[part], repeat[part]
        lengths = first_piece[uses + 1] - first_piece[uses]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        chosen = pieces[np.repeat(first_piece[uses], lengths) + within]
        spans = np.empty(len(chosen), SPAN)
        spans["row"] = np.repeat(row[part], lengths)
        spans["doc"] = docs[chosen["row"]]
        spans["start"], spans["length"] = chosen["start"], chosen["length"]
        head = np.array([len(slots), len(spans)], "<i8")
        yield number, b"".join((head.tobytes(), slots.tobytes(), spans.tobytes(), matrix[uses].tobytes()))


def _unpack(
    block: bytes, capacity: int, dtype: str
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], npt.NDArray[Any]]:
    """(slots, spans, tokens) of a block."""
    uses, pieces = np.frombuffer(block, "<i8", 2).tolist()
    at = 16
    slots = np.frombuffer(block, SLOT, uses, at)
    at += slots.nbytes
    spans = np.frombuffer(block, SPAN, pieces, at)
    at += spans.nbytes
    return slots, spans, np.frombuffer(block, dtype, uses * capacity, at).reshape(uses, capacity)


def _write_records(path: str, matrix: npt.NDArray[Any]) -> str:
    """Write a shard; returns the checksums at its ends."""
    with io.FileIO(path, "w+") as file:
        for start in range(0, len(matrix), _RECORDS_AT_ONCE):
            file.write(frame_examples(matrix[start : start + _RECORDS_AT_ONCE]))
        return end_checksums(cast(BinaryIO, file), file.tell() // len(matrix), len(matrix))

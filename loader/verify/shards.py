"""Every record of a view, read in the order of the files: frame, checksum, length, padding, and what provenance and
order say it holds. What the pieces must equal is left to `spans`, through the spill."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader.layout import Shard
from loader.progress import Progress
from loader.verify.files import Files
from loader.verify.findings import Findings
from loader.verify.ids import IntArray
from loader.verify.layout import PackedUnits
from loader.verify.pieces import PIECE, Pieces, Spill
from loader.verify.records import Malformed, RecordFormat
from loader.verify.tables import Unreadable, row_groups
from schemas.arrow import PROVENANCE
from schemas.manifest import TokenizerInfo
from schemas.order import Order
from schemas.record import end_checksums


class ShardCheck:
    """The check of a view's shards. After `check`:

    sound: for each shard whether its records could be read; complete: whether all shards and provenance could.
    counts: tokens as in_records.<component>, repeated.<component>, train.<component>, and padding.
    """

    def __init__(
        self,
        findings: Findings,
        files: Files,
        shards: list[Shard],
        record: RecordFormat,
        order: Order,
        packed: PackedUnits,
        tokenizer: TokenizerInfo,
        spill: Spill,
    ) -> None:
        self._findings, self._files, self._shards, self._record = findings, files, shards, record
        self._order, self._packed, self._tokenizer, self._spill = order, packed, tokenizer, spill
        components = range(len(order.names))
        self._ends = {split: [packed.ends(split, c) for c in components] for split in ("train", "validation")}
        # The number of each component's first train sequence when all components' are numbered through.
        self._first_sequence = np.concatenate(
            ([0], np.cumsum([packed.of(packed.sequences["train"], c) for c in components]))
        )
        self.sound = [False] * len(shards)
        self.complete = True
        self.counts: Counter[str] = Counter()

    def check(self, progress: Progress) -> None:
        """Read every shard beside its provenance."""
        for number, shard in enumerate(self._shards):
            pieces = self._pieces(number, shard)
            self.sound[number] = self._read_records(shard, pieces)
            self.complete &= self.sound[number] and pieces is not None
            if pieces is not None:
                self._count(shard, pieces)
                self._spill.add(pieces)
            progress.advance()

    def _pieces(self, number: int, shard: Shard) -> Pieces | None:
        """A shard's pieces as its provenance has them, their units compared with the order's; None if it is unfit."""
        findings, path = self._findings, self._files.folder / shard.provenance
        if shard.provenance not in self._files.good:
            return None
        try:
            pieces, foreign = self._provenance(path, shard)
        except Unreadable as error:
            findings.problem(path, str(error))
            return None
        records = shard.file.records
        before = findings.total
        if foreign:
            findings.problem(
                path, f"{foreign} rows name another shard than {shard.file.path}, or no document of this view", foreign
            )
        if (np.diff(pieces["record"]) < 0).any() or (pieces["record"] < 0).any() or (pieces["record"] >= records).any():
            findings.problem(path, "its rows are not in the order of the shard's records")
        if (pieces["length"] < 1).any() or (pieces["start"] < 0).any():
            findings.problem(path, "it has spans without tokens")
        if findings.total > before:
            return None
        ends = np.cumsum(pieces["length"], dtype=np.int64)
        starts = np.searchsorted(pieces["record"], np.arange(records + 1))
        filled = np.concatenate(([0], ends))[starts]
        pieces["at"] = ends - pieces["length"] - filled[:-1][pieces["record"]]
        filled = np.diff(filled)
        wrong = np.flatnonzero((filled < 1) | (filled > self._record.capacity))
        findings.each(
            path,
            (f"gives record {row} {filled[row]} tokens; it has room for 1 to {self._record.capacity}" for row in wrong),
        )
        if len(wrong):
            return None
        self._compare_with_order(number, shard, pieces)
        pieces["shard"] = number
        return pieces

    def _provenance(self, path: Path, shard: Shard) -> tuple[Pieces, int]:
        """The file's rows, and how many of them name another shard or an unknown document."""
        parts, foreign = [np.empty(0, PIECE)], 0
        for table in row_groups(path, PROVENANCE, PROVENANCE.names):
            piece = np.zeros(table.num_rows, PIECE)
            named = table["document"].combine_chunks().dictionary_encode()
            units, rows = self._packed.units.parse(named.dictionary)
            which = named.indices.to_numpy()
            piece["unit"], piece["row"], piece["record"] = units[which], rows[which], table["row"].to_numpy()
            piece["start"], piece["length"] = table["start"].to_numpy(), table["length"].to_numpy()
            elsewhere = pc.not_equal(table["shard"].combine_chunks(), pa.scalar(shard.file.path)).to_numpy(
                zero_copy_only=False
            )
            foreign += int((elsewhere | (units[which] < 0)).sum())
            parts.append(piece)
        self._findings.checked["spans"] += sum(len(part) for part in parts)
        return np.concatenate(parts), foreign

    def _compare_with_order(self, number: int, shard: Shard, pieces: Pieces) -> None:
        """Every record must hold the sequence the order puts there: a sequence of one unit of one component."""
        rows = np.arange(shard.file.records, dtype=np.int64)
        if shard.component < 0:
            component, sequence, repeat = self._order.sequence_of_slot(number, rows)
        else:
            component, sequence, repeat = np.full_like(rows, shard.component), rows + shard.first, np.zeros_like(rows)
        expected = self._units_of(component, sequence, "train" if shard.component < 0 else "validation")
        pieces["repeat"] = repeat[pieces["record"]]
        pieces["sequence"] = (self._first_sequence[component] + sequence)[pieces["record"]]
        units, path = self._packed.units, self._files.folder / shard.file.path
        wrong = np.flatnonzero(pieces["unit"] != expected[pieces["record"]])
        self._findings.each(
            path,
            (
                f"record {piece['record']} holds document {units.name(int(piece['unit']))}/{piece['row']}, "
                f"where the order puts a sequence of {units.name(int(expected[piece['record']]))}"
                for piece in pieces[wrong]
            ),
        )

    def _units_of(self, component: IntArray, sequence: IntArray, split: str) -> IntArray:
        unit = np.empty_like(sequence)
        for c, ends in enumerate(self._ends[split]):
            mine = component == c
            unit[mine] = self._packed.units.first[c] + np.searchsorted(ends, sequence[mine], side="right")
        return unit

    def _read_records(self, shard: Shard, pieces: Pieces | None) -> bool:
        """Read a shard's records again; whether it is a series of whole records."""
        path = self._files.folder / shard.file.path
        if not path.is_file():
            return False
        if 0 < path.stat().st_size == shard.file.records * self._record.size:
            with open(path, "rb") as file:
                found = end_checksums(file, self._record.size, shard.file.records)
            self._findings.expect(path, "checksums of its first and last record", shard.file.ends, found)
        try:
            for first, tokens in self._record.read(self._findings, path, shard.file.records):
                if pieces is not None:
                    begin, end = np.searchsorted(pieces["record"], [first, first + len(tokens)]).tolist()
                    self._check_block(path, first, tokens, pieces[begin:end])
        except Malformed as error:
            self._findings.problem(path, str(error))
            return False
        return shard.file.path in self._files.good

    def _check_block(self, path: Path, first: int, tokens: npt.NDArray[np.integer], pieces: Pieces) -> None:
        """Ids are in the vocabulary, a record ends in padding alone, documents start with begin."""
        foreign = first + np.flatnonzero(((tokens < 0) | (tokens >= self._tokenizer.vocab_size)).any(axis=1))
        self._findings.each(path, (f"record {row} holds ids beyond the vocabulary" for row in foreign))
        record = pieces["record"] - first
        filled = np.bincount(record, pieces["length"], len(tokens)).astype(np.int64)
        beyond = np.arange(self._record.capacity) >= filled[:, None]
        stray = first + np.flatnonzero((beyond & (tokens != self._tokenizer.pad)).any(axis=1))
        self._findings.each(path, (f"record {row} holds tokens beyond those its provenance names" for row in stray))
        begins = pieces["start"] == 0
        wrong = tokens[record[begins], pieces["at"][begins]] != self._tokenizer.begin
        bad = np.unique(first + record[begins][wrong])
        self._findings.each(
            path, (f"record {row} has a document that does not start with the begin token" for row in bad)
        )

    def _count(self, shard: Shard, pieces: Pieces) -> None:
        """Tokens of first uses, of repeats and of train, by component; and padding."""
        component = self._packed.units.component_of(pieces["unit"])
        for c, name in enumerate(self._order.names):
            mine = component == c
            again = mine & (pieces["repeat"] > 0)
            every, repeated = int(pieces["length"][mine].sum()), int(pieces["length"][again].sum())
            self.counts[f"in_records.{name}"] += every - repeated
            self.counts[f"repeated.{name}"] += repeated
            self.counts[f"train.{name}"] += every if shard.component < 0 else 0
        self.counts["padding"] += shard.file.records * self._record.capacity - int(pieces["length"].sum())

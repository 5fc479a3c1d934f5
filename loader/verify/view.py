"""One view: its manifest against itself, its records against provenance, order and tokens, its counts against both."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from loader.layout import order_of, shards_of
from loader.locate import MANIFEST
from loader.progress import Progress
from loader.verify.documents import Recount
from loader.verify.files import Files
from loader.verify.findings import Findings
from loader.verify.ids import Units
from loader.verify.layout import PackedUnits, check_numbers, read_packed
from loader.verify.pieces import Spill
from loader.verify.records import RecordFormat
from loader.verify.shards import ShardCheck
from loader.verify.spans import SpanCheck
from loader.verify.tables import Unreadable
from schemas.errors import TokenmillError
from schemas.manifest import File, ShardManifest, UnitsFile
from schemas.order import Order
from schemas.record import token_dtype


def view_files(view: ShardManifest) -> list[File | UnitsFile]:
    """All files a view's manifest names."""
    held_out = [file for split in view.splits.validation.values() for file in split.files]
    return [*view.splits.train.files, *held_out, *view.provenance, view.units]


class ViewCheck:
    """The check of one view. files: those of its manifest, after their own check.

    recount, units, token_files: what the run's other stages gave; None or empty when the view is checked alone.
    """

    def __init__(
        self,
        findings: Findings,
        view: ShardManifest,
        files: Files,
        recount: Recount | None = None,
        units: Units | None = None,
        token_files: list[Path | None] | None = None,
    ) -> None:
        self._findings, self._view, self._files = findings, view, files
        self._recount, self._units, self._token_files = recount, units, token_files or []
        self._manifest = files.folder / MANIFEST

    def check(self, progress: Progress) -> None:
        """Check everything; what cannot be checked because something else is broken is left out."""
        findings, view = self._findings, self._view
        findings.expect(self._manifest, "token_dtype", view.token_dtype, token_dtype(view.tokenizer.vocab_size).name)
        self._check_documents_law()
        try:
            order, shards = order_of(view), shards_of(view)
        except TokenmillError as error:
            findings.problem(self._manifest, str(error))
            return
        packed = self._packed(order.names)
        if packed is None:
            return
        check_numbers(findings, self._files.folder, view, order, packed)
        if not self._fits_the_order(order, packed):
            return
        record = RecordFormat(view.sequence_length, view.token_dtype)
        with tempfile.TemporaryDirectory(prefix="tokenmill-verify-") as folder:
            spill = Spill(Path(folder), packed.tokens["train"] + packed.tokens["validation"])
            found = ShardCheck(findings, self._files, shards, record, order, packed, view.tokenizer, spill)
            with progress.step(f"view {view.sequence_length}: records", len(shards)):
                found.check(progress)
            spans = SpanCheck(
                findings, self._files.folder, shards, found.sound, record, packed, spill, self._token_files
            )
            with progress.step(f"view {view.sequence_length}: tokens of records", spill.buckets):
                spans.check(found.complete, progress)
        if found.complete:
            self._check_token_law(order, packed, found)

    def _packed(self, names: tuple[str, ...]) -> PackedUnits | None:
        """units.parquet, if it is as stated and its units are those of the run."""
        path = self._files.folder / self._view.units.path
        if self._view.units.path not in self._files.good:
            return None
        try:
            packed = read_packed(path, names)
        except Unreadable as error:
            self._findings.problem(path, str(error))
            return None
        except TokenmillError as error:
            self._findings.problem(path, str(error).removeprefix(f"{path}: "))
            return None
        if self._units is not None and packed.units != self._units:
            self._findings.problem(path, "its units are not those of the documents")
            return None
        return packed

    def _fits_the_order(self, order: Order, packed: PackedUnits) -> bool:
        """Whether every sequence the order asks for is in a unit; `check_numbers` has said so when not."""
        train = [packed.of(packed.sequences["train"], c) for c in range(len(order.names))]
        splits = self._view.splits.validation
        held_out = [packed.of(packed.sequences["validation"], c) for c in range(len(order.names))]
        stated = [splits[name].records if name in splits else 0 for name in order.names]
        return train == list(order.available) and held_out == stated

    def _check_documents_law(self) -> None:
        """in = kept + dropped + rejected, as stated; and every one of them as counted from the run's files."""
        law, findings = self._view.conservation.documents, self._findings
        if not law.holds():
            findings.problem(
                self._manifest, f"documents do not add up: {law.into} in, {law.kept} kept, the rest dropped or rejected"
            )
        if self._recount is None or not self._recount.complete:
            return
        found = {folder: self._recount.total(folder) for folder in ("documents", "dedup", "tokens")}
        removed = {kind: reasons(found, kind) for kind in ("dropped", "rejected")}
        findings.expect(self._manifest, "documents in", law.into, found["documents"]["documents_in"])
        findings.expect(self._manifest, "documents kept", law.kept, found["tokens"]["kept"])
        for kind, stated in (("dropped", law.dropped), ("rejected", law.rejected)):
            for reason in sorted(stated.keys() | removed[kind].keys()):
                count = removed[kind].get(reason, 0)
                findings.expect(self._manifest, f"documents {kind} as {reason}", stated.get(reason, 0), count)

    def _check_token_law(self, order: Order, packed: PackedUnits, found: ShardCheck) -> None:
        """encoded = in_records + unused; in_records + repeated + padding = records x (L + 1); all counted anew."""
        law, counts, findings = self._view.conservation.tokens, found.counts, self._findings
        expect = findings.expect
        encoded = int(sum(tokens.sum() for tokens in packed.tokens.values()))
        if self._recount is not None and self._recount.complete:
            encoded = self._recount.total("tokens")["tokens"]
            self._check_packed(packed)
        in_records = sum(counts[f"in_records.{name}"] for name in order.names)
        expect(self._manifest, "tokens encoded", law.encoded, encoded)
        expect(self._manifest, "tokens in records", law.in_records, in_records)
        expect(self._manifest, "tokens repeated", law.repeated, sum(counts[f"repeated.{name}"] for name in order.names))
        expect(self._manifest, "tokens of padding", law.padding, counts["padding"])
        expect(self._manifest, "tokens unused", law.unused, encoded - in_records)
        records = order.records + sum(split.records for split in self._view.splits.validation.values())
        if not law.holds(records, self._view.sequence_length):
            findings.problem(self._manifest, "tokens do not add up")
        train = sum(counts[f"train.{name}"] for name in order.names)
        for name in order.names:
            share = counts[f"train.{name}"] / train
            expect(self._manifest, f"token share of {name}", self._view.components[name].token_share, share)

    def _check_packed(self, packed: PackedUnits) -> None:
        """Documents and tokens of every unit in units.parquet against those in the tokens files."""
        assert self._recount is not None
        tokens = packed.tokens["train"] + packed.tokens["validation"]
        for what, stated, found in (
            ("documents", packed.documents, self._recount.kept),
            ("tokens", tokens, self._recount.tokens),
        ):
            wrong = np.flatnonzero(stated != found).tolist()
            name = packed.units.name
            self._findings.each(
                self._files.folder / self._view.units.path,
                (f"{what} of unit {name(unit)}: stated {stated[unit]:,}, found {found[unit]:,}" for unit in wrong),
            )


def reasons(found: Mapping[str, Mapping[str, int]], kind: str) -> dict[str, int]:
    """Documents removed by reason, over all stages; kind: `dropped` or `rejected`."""
    removed: dict[str, int] = {}
    for counts in found.values():
        for key, count in counts.items():
            if key.startswith(f"{kind}."):
                reason = key.partition(".")[2]
                removed[reason] = removed.get(reason, 0) + count
    return removed

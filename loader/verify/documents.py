"""The documents of a run, unit by unit: each is kept, dropped for one that is kept, or rejected; none twice, none lost.

In memory stay one row group of text or tokens, a few numbers a unit, and one bit a document (which are dropped): a
billion documents take 125 MB.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from loader.locate import MANIFEST, RunManifests
from loader.progress import Progress
from loader.verify.files import Files
from loader.verify.findings import Findings
from loader.verify.ids import IntArray, Units
from loader.verify.tables import Unreadable, is_documents, row_groups
from loader.verify.tokens import check_tokens
from schemas.arrow import DROPS, HASH_BYTES, REJECTED
from schemas.manifest import StageManifest, TokenizerInfo

Counts = Counter[str]
_REJECTED_ID = r"document (?P<id>\S+)$"  # how the rejects of `tokens` end their detail


@dataclass
class Recount:
    """What the files hold. complete: every unit could be read, so that totals may be compared.

    counts: per component and folder (documents, dedup, tokens), under the manifests' own keys.
    """

    complete: bool = True
    counts: dict[str, dict[str, Counts]] = field(default_factory=dict)

    def add(self, component: str, folder: str, counts: Counts) -> None:
        """Count a unit."""
        self.counts.setdefault(component, {}).setdefault(folder, Counter()).update(counts)


class DocumentChain:
    """The check of a run's documents, drops and tokens."""

    def __init__(
        self,
        findings: Findings,
        run: RunManifests,
        files: dict[tuple[str, str], Files],
        units: Units,
        tokenizer: TokenizerInfo,
        threshold: float,
    ) -> None:
        self._findings, self._run, self._files, self._units = findings, run, files, units
        self._tokenizer, self._threshold = tokenizer, np.float32(threshold)
        # Documents of each unit, -1 where they could not be read; and which of them are dropped, 8 to a byte.
        self._rows: IntArray = np.full(units.total, -1, np.int64)
        self._dropped: dict[int, npt.NDArray[np.uint8]] = {}
        self.recount = Recount()

    def check(self, progress: Progress) -> None:
        """Check every unit, then every drop's survivor, then the manifests' counts."""
        for component, units in zip(self._units.names, self._units.counts, strict=True):
            for unit in range(units):
                self._check_unit(component, unit)
                progress.advance()
        for component, units in zip(self._units.names, self._units.counts, strict=True):
            for unit in range(units):
                self._check_survivors(component, unit)
        for folder, found in self._run.stages.items():
            for component, whole in found.items():
                self._check_sums(self._run.folder / folder / component / MANIFEST, whole)

    def _check_unit(self, component: str, unit: int) -> None:
        number = self._units.number(component, unit)
        documents = self._guarded(self._documents, component, unit)
        if documents is None:
            return
        self._rows[number] = documents
        fates = [self._guarded(part, component, unit) for part in (self._drops, self._rejected_tokens, self._tokens)]
        if any(rows is None for rows in fates):
            return
        dropped, rejected, kept = fates
        fate = np.concatenate(fates)
        times = np.bincount(fate[(fate >= 0) & (fate < documents)], minlength=documents)
        path = self._path("tokens", component, "tokens", unit)
        name = self._units.name(number)
        self._findings.each(path, np.flatnonzero(times == 0), lambda row: f"document {name}/{row} is neither kept, dropped nor rejected")
        self._findings.each(path, np.flatnonzero(times > 1), lambda row: f"document {name}/{row} is in more than one of kept, dropped, rejected")
        strays = np.unique(fate[fate >= documents])
        self._findings.each(path, strays, lambda row: f"there is no document {name}/{row}, yet it is kept, dropped or rejected")

    def _guarded(self, part: Any, component: str, unit: int) -> Any:
        """What `part` gives, or None where a file is not as stated or no such table."""
        folder, kind = _SOURCES[part.__name__]
        path = self._path(folder, component, kind, unit)
        if path.name not in self._files[folder, component].good:
            self.recount.complete = False
            return None
        try:
            return part(component, unit, path)
        except Unreadable as error:
            self.recount.complete = False
            self._findings.problem(path, str(error))
            return None

    def _documents(self, component: str, unit: int, path: Path) -> int | None:
        """Ids are consecutive, texts match their hashes; returns the number of documents."""
        counts: Counts = Counter()
        number, rows = self._units.number(component, unit), 0
        for table in row_groups(path, is_documents, ["id", "hash", "text", "characters"]):
            units, found = self._units.parse(table["id"].combine_chunks())
            wrong = np.flatnonzero((units != number) | (found != rows + np.arange(table.num_rows)))
            self._findings.each(path, wrong, lambda i, at=rows, t=table: f"row {at + i} has the id {t['id'][int(i)]}, not {self._units.name(number)}/{at + i}")  # fmt: skip
            texts = table["text"].combine_chunks()
            altered = np.flatnonzero(hashes(texts) != _fixed(table["hash"].combine_chunks()))
            self._findings.each(path, altered, lambda i, at=rows: f"the text of row {at + i} does not match its hash")
            lengths = pc.utf8_length(texts)
            if not lengths.cast(pa.int64()).equals(table["characters"].combine_chunks()):
                self._findings.problem(path, "the column characters does not hold the texts' lengths")
            counts.update(kept=table.num_rows, characters=pc.sum(lengths).as_py() or 0)
            rows += table.num_rows
        self._findings.checked["documents"] += rows
        rejected = self._path("documents", component, "rejected", unit)
        if rejected.name not in self._files["documents", component].good:
            self.recount.complete = False
            return rows
        counts.update(self._reasons(rejected))
        counts["documents_in"] = rows + sum(n for key, n in counts.items() if key.startswith("rejected."))
        self._settle("documents", component, unit, counts)
        return rows

    def _drops(self, component: str, unit: int, path: Path) -> IntArray:
        """The rows dropped; they become bits."""
        number, counts = self._units.number(component, unit), Counter[str]()
        parts = [np.empty(0, np.int64)]
        for table in row_groups(path, DROPS, ["id", "row", "reason", "jaccard"]):
            units, rows = self._units.parse(table["id"].combine_chunks())
            wrong = np.flatnonzero((units != number) | (rows != table["row"].to_numpy()))
            self._findings.each(path, wrong, lambda i, t=table: f"drops {t['id'][int(i)]} as row {t['row'][int(i)]} of {self._units.name(number)}")
            parts.append(rows[units == number])
            reasons = table["reason"].to_numpy(zero_copy_only=False)
            jaccard = table["jaccard"].to_numpy()
            least = np.where(reasons == "exact_duplicate", np.float32(1), self._threshold)
            low = np.flatnonzero(~((jaccard >= least) & (jaccard <= 1)))
            self._findings.each(path, low, lambda i, t=table: f"{t['id'][int(i)]} is dropped as {t['reason'][int(i)]} at a Jaccard of {t['jaccard'][int(i)].as_py():.4f}")
            counts.update(f"dropped.{reason}" for reason in reasons.tolist())
        unknown = sorted(counts.keys() - {"dropped.exact_duplicate", "dropped.near_duplicate"})
        self._findings.each(path, unknown, lambda key: f"{key.partition('.')[2]!r} is no reason to drop a document")
        dropped = np.concatenate(parts)
        bits = np.zeros(max(int(self._rows[number]), 0), bool)
        bits[dropped[dropped < len(bits)]] = True
        if len(dropped):
            self._dropped[number] = np.packbits(bits)
        self._findings.checked["drops"] += len(dropped)
        self._settle("dedup", component, unit, counts)
        return dropped

    def _rejected_tokens(self, component: str, unit: int, path: Path) -> IntArray:
        """The rows the token rules rejected, from the ids their details end with."""
        number = self._units.number(component, unit)
        parts = [np.empty(0, np.int64)]
        for table in row_groups(path, REJECTED, ["detail"]):
            ids = pc.struct_field(pc.extract_regex(table["detail"].combine_chunks(), _REJECTED_ID), "id")
            units, rows = self._units.parse(ids)
            wrong = np.flatnonzero(units != number)
            self._findings.each(path, wrong, lambda i: f"reject {i} names no document of {self._units.name(number)}")
            parts.append(rows[units == number])
        return np.concatenate(parts)

    def _tokens(self, component: str, unit: int, path: Path) -> IntArray:
        """The rows kept; their tokens are well formed."""
        number = self._units.number(component, unit)
        rows, tokens = check_tokens(self._findings, path, self._units, number, self._tokenizer)
        rejected = self._path("tokens", component, "rejected", unit)
        counts = Counter({"kept": len(rows), "tokens": tokens}) + self._reasons(rejected)
        self._settle("tokens", component, unit, counts)
        return rows

    def _reasons(self, path: Path) -> Counts:
        counts: Counts = Counter()
        for table in row_groups(path, REJECTED, ["reason"]):
            counts.update(f"rejected.{reason}" for reason in table["reason"].to_pylist())
        self._findings.checked["rejects"] += sum(counts.values())
        return counts

    def _settle(self, folder: str, component: str, unit: int, counts: Counts) -> None:
        """Compare a unit's counts with its manifest's and add them up."""
        self.recount.add(component, folder, counts)
        stated = self._run.stages[folder][component].units[unit].counts
        path = self._run.folder / folder / component / MANIFEST
        compare_counts(self._findings, path, f"unit {unit}", stated, counts)

    def _check_survivors(self, component: str, unit: int) -> None:
        """Every drop names a document that exists and is kept."""
        path = self._path("dedup", component, "drops", unit)
        if self._units.number(component, unit) not in self._dropped:
            return
        for table in row_groups(path, DROPS, ["id", "kept_id"]):
            units, rows = self._units.parse(table["kept_id"].combine_chunks())
            wrong = [i for i in range(table.num_rows) if not self._is_kept(int(units[i]), int(rows[i]))]
            self._findings.each(path, wrong, lambda i, t=table: f"{t['id'][i]} is dropped for {t['kept_id'][i]}, which is not kept")

    def _is_kept(self, number: int, row: int) -> bool:
        if number < 0:
            return False
        if self._rows[number] < 0:
            return True  # that unit's documents could not be read, which is reported
        bits = self._dropped.get(number)
        return row < self._rows[number] and (bits is None or not bits[row >> 3] >> (7 - (row & 7)) & 1)

    def _check_sums(self, path: Path, whole: StageManifest) -> None:
        summed: Counts = Counter()
        for unit in whole.units:
            summed.update(unit.counts)
        compare_counts(self._findings, path, "all units", whole.counts, summed)

    def _path(self, folder: str, component: str, kind: str, unit: int) -> Path:
        units = self._units.counts[self._units.names.index(component)]
        return self._run.folder / folder / component / f"{kind}-{unit:05d}-of-{units:05d}.parquet"


# Which file each part of the chain reads.
_SOURCES = {
    "_documents": ("documents", "documents"),
    "_drops": ("dedup", "drops"),
    "_rejected_tokens": ("tokens", "rejected"),
    "_tokens": ("tokens", "tokens"),
}


def compare_counts(findings: Findings, path: Path, what: str, stated: dict[str, int], found: Counts) -> None:
    """Compare counts by key; absent is 0, and keys of single sources are left out."""
    for key in sorted(stated.keys() | found.keys()):
        if not key.startswith("source."):
            findings.expect(path, f"{key} of {what}", stated.get(key, 0), found.get(key, 0))

"""The documents of a run, unit by unit: each is kept, dropped for one that is kept, or rejected; none twice, none lost.

In memory stay one row group of text or tokens, a few numbers a unit, and one bit a document (which are dropped): a
billion documents take 125 MB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from loader.locate import COMPONENT_FOLDERS, MANIFEST, RunManifests
from loader.progress import Progress
from loader.verify.files import Files
from loader.verify.findings import Findings
from loader.verify.ids import IntArray, Units, of_earlier_run
from loader.verify.tables import Unreadable
from loader.verify.unit_files import (
    Counts,
    check_documents,
    check_drops,
    check_survivors,
    check_tokens,
    count_rejects,
    rejected_rows,
)
from schemas.manifest import StageManifest, TokenizerInfo

T = TypeVar("T")


class Recount:
    """What the files hold. complete: every file could be read, so that totals may be compared.

    kept, tokens: documents and tokens of each unit's tokens file, int64 [units].
    """

    def __init__(self, units: int) -> None:
        self.complete = True
        self.kept: IntArray = np.zeros(units, np.int64)
        self.tokens: IntArray = np.zeros(units, np.int64)
        self._counts: dict[str, Counts] = {folder: Counter() for folder in COMPONENT_FOLDERS}

    def add(self, folder: str, unit: int, counts: Counts) -> None:
        """Add a unit's counts, under the manifests' own keys."""
        self._counts[folder].update(counts)
        if folder == "tokens":
            self.kept[unit], self.tokens[unit] = counts["kept"], counts["tokens"]

    def total(self, folder: str) -> Counts:
        """The counts of a stage, over all components."""
        return self._counts[folder]


class DocumentChain:
    """The check of a run's documents, drops, rejects and tokens. threshold: least similarity of near-duplicates."""

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
        self._tokenizer, self._threshold = tokenizer, threshold
        # Documents of each unit, -1 where they could not be read; and which of them are dropped, 8 to a byte.
        self._rows: IntArray = np.full(units.total, -1, np.int64)
        self._dropped: dict[int, npt.NDArray[np.uint8]] = {}
        self.recount = Recount(units.total)

    def check(self, progress: Progress) -> None:
        """Check every unit, then the survivor of every drop (a drop may name any unit's document)."""
        for number in range(self._units.total):
            self._check_unit(number)
            progress.advance()
        for number in self._dropped:
            self._check_survivors(number)

    def _check_unit(self, number: int) -> None:
        findings, units = self._findings, self._units
        documents = self._read(number, "documents", "documents", lambda p: check_documents(findings, p, units, number))
        rejects = self._read(number, "documents", "rejected", lambda p: count_rejects(findings, p))
        if documents is not None:
            self._rows[number] = documents[0]
        if documents is not None and rejects is not None:
            entered = Counter(documents_in=documents[0] + rejects.total())
            self._settle(number, "documents", documents[1] + rejects + entered)
        drops = self._read(number, "dedup", "drops", lambda p: check_drops(findings, p, units, number, self._threshold))
        if drops is not None:
            self._settle(number, "dedup", drops[1])
            self._remember(number, drops[0])
        tokens = self._read(
            number, "tokens", "tokens", lambda p: check_tokens(findings, p, units, number, self._tokenizer)
        )
        rejects = self._read(number, "tokens", "rejected", lambda p: count_rejects(findings, p))
        if tokens is not None and rejects is not None:
            self._settle(number, "tokens", Counter(kept=len(tokens[0]), tokens=tokens[1]) + rejects)
        refused = self._read(number, "tokens", "rejected", lambda p: rejected_rows(findings, p, units, number))
        if documents is not None and drops is not None and tokens is not None and refused is not None:
            self._check_fates(number, documents[0], np.concatenate((drops[0], tokens[0], refused)))

    def _check_fates(self, number: int, documents: int, fates: IntArray) -> None:
        """Every document met one fate: dropped, kept or refused by a token rule."""
        path, name = self._path(number, "tokens", "tokens"), self._units.name(number)
        times = np.bincount(fates[fates < documents], minlength=documents)
        lost, twice, strays = (
            np.flatnonzero(times == 0),
            np.flatnonzero(times > 1),
            np.unique(fates[fates >= documents]),
        )
        findings = self._findings
        findings.each(path, (f"{name}/{row} is a document that is neither kept, dropped nor rejected" for row in lost))
        findings.each(path, (f"{name}/{row} is more than one of kept, dropped and rejected" for row in twice))
        findings.each(
            path, (f"{name}/{row} is kept, dropped or rejected, but there is no such document" for row in strays)
        )

    def _remember(self, number: int, dropped: IntArray) -> None:
        if len(dropped):
            bits = np.zeros(int(dropped.max()) + 1, bool)
            bits[dropped] = True
            self._dropped[number] = np.packbits(bits)

    def _check_survivors(self, number: int) -> None:
        """Every drop names a document that exists and is kept by deduplication, or one of an earlier run."""
        path = self._path(number, "dedup", "drops")
        drops = check_survivors(path, self._units)
        wrong = [drop for drop in drops if not self._survives(drop[2], drop[3]) and not of_earlier_run(drop[1])]
        self._findings.each(
            path, (f"{drop[0]} is dropped for {drop[1]}, which does not exist or is dropped itself" for drop in wrong)
        )

    def _survives(self, number: int, row: int) -> bool:
        if number < 0:
            return False
        if 0 <= self._rows[number] <= row:
            return False  # where a unit's documents cannot be read, that is reported and no more is known
        bits = self._dropped.get(number)
        return bits is None or row >> 3 >= len(bits) or not bits[row >> 3] >> (7 - (row & 7)) & 1

    def _read(self, number: int, folder: str, kind: str, read: Callable[[Path], T]) -> T | None:
        """What `read` makes of a unit's file, or None when the file is not as stated or no such table."""
        path = self._path(number, folder, kind)
        component = self._units.names[int(self._units.component_of(number))]
        if path.name in self._files[folder, component].good:
            try:
                return read(path)
            except Unreadable as error:
                self._findings.problem(path, str(error))
        self.recount.complete = False
        return None

    def _settle(self, number: int, folder: str, counts: Counts) -> None:
        """Compare a unit's counts with its manifest's and add them up."""
        component, unit = self._units.name(number).split("/")
        self.recount.add(folder, number, counts)
        stated = self._run.stages[folder][component].units[int(unit)].counts
        path = self._run.folder / folder / component / MANIFEST
        compare_counts(self._findings, path, f"unit {unit}", stated, counts)

    def _path(self, number: int, folder: str, kind: str) -> Path:
        component, unit = self._units.name(number).split("/")
        units = self._units.counts[self._units.names.index(component)]
        return self._run.folder / folder / component / f"{kind}-{int(unit):05d}-of-{units:05d}.parquet"


def unit_counts(stage: StageManifest) -> Counts:
    """The counts of a stage's units, added up."""
    summed: Counts = Counter()
    for unit in stage.units:
        summed.update(unit.counts)
    return summed


def compare_counts(findings: Findings, path: Path, what: str, stated: dict[str, int], found: Counts) -> None:
    """Compare counts by key. Absent is 0; `source.…` repeats what other keys say and is left out."""
    for key in sorted(stated.keys() | found.keys()):
        if not key.startswith("source."):
            findings.expect(path, f"{key} of {what}", stated.get(key, 0), found[key])

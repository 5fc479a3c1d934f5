"""Files against their manifest: there, nothing else beside them, of the stated size, hash and number of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loader.locate import MANIFEST
from loader.progress import Progress
from loader.verify.findings import Findings
from schemas.manifest import File, UnitsFile

_BLOCK = 1 << 20


class Files:
    """The files of one manifest's folder. After `check`, `good` holds the names of those that are as stated."""

    def __init__(self, findings: Findings, folder: Path, files: Iterable[File | UnitsFile]) -> None:
        self._findings = findings
        self.folder = folder
        self._files = {file.path: file for file in files}
        self.good: set[str] = set()

    @property
    def count(self) -> int:
        """How many files the manifest names."""
        return len(self._files)

    def check(self, progress: Progress) -> None:
        """Look at every file; Parquet files also for their number of rows."""
        there = {entry.name for entry in self.folder.iterdir()} if self.folder.is_dir() else set()
        unexpected = sorted(there - self._files.keys() - {MANIFEST})
        self._findings.each(self.folder, (f"holds {name}, which the manifest does not name" for name in unexpected))
        for file in self._files.values():
            if self._is_as_stated(file):
                self.good.add(file.path)
            progress.advance()

    def _is_as_stated(self, file: File | UnitsFile) -> bool:
        findings, path = self._findings, self.folder / file.path
        if Path(file.path).name != file.path or "\0" in file.path:
            findings.problem(self.folder / MANIFEST, f"names the file {file.path!r}, which is not in its own folder")
            return False
        try:
            size, digest = _size_and_sha256(path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            findings.problem(path, "is missing" if missing else f"cannot be read: {error.strerror}")
            return False
        findings.checked["files"] += 1
        findings.checked["bytes"] += size
        if isinstance(file, File) and size != file.bytes:
            findings.problem(path, f"has {size:,} bytes, the manifest states {file.bytes:,}")
            return False
        if digest != file.sha256:
            findings.problem(path, "its content is not what was written: its sha256 differs from the manifest's")
            return False
        return path.suffix != ".parquet" or self._has_its_rows(path, file)

    def _has_its_rows(self, path: Path, file: File | UnitsFile) -> bool:
        try:
            rows = pq.ParquetFile(path).metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            self._findings.problem(path, f"cannot be read as Parquet: {first_line(error)}")
            return False
        return isinstance(file, UnitsFile) or self._findings.expect(path, "rows", file.records, rows)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n")[0]


def _size_and_sha256(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        while n := file.readinto(buffer):
            digest.update(view[:n])
            size += n
    return size, digest.hexdigest()

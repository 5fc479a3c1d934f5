"""What the stages share: the context they run in, receipts of finished units, and versions that shape bytes.

A worker that finishes a unit leaves a *receipt* in the work folder: the files it committed with their sha256, its
inputs and its counts. A unit with a receipt is not run again; the driver gathers the receipts into the stage's
manifest, which is written last, and removes the work folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines import metrics
from pipelines.jobs import Run
from pipelines.plan import Plan
from pipelines.sources import Reject
from schemas import manifest, storage
from schemas.arrow import REJECTED, parquet_writer
from schemas.config import Config
from schemas.errors import TokenmillError
from schemas.manifest import File, Model, Stage, StageManifest, Unit

MANIFEST = "manifest.json"
FOLDERS: dict[Stage, str] = {
    "ingest": "documents",
    "dedup": "dedup",
    "tokenizer": "tokenizer",
    "tokenize": "tokens",
    "shard": "shards",
}


SMALL_BYTES = 48 << 20  # of input: ingesting or tokenizing this takes one process about as long as starting two
SMALL_DOCUMENTS = 50_000  # whose signatures, or token counts, one process settles in seconds


_REJECTS_A_GROUP = 4096


@dataclass(frozen=True)
class Context:
    """What a stage needs in the driver: the run, its config and plan, Beam's options, and where to say things.

    say(event, **facts): tells the supervisor how far the run is.
    """

    run: Run
    config: Config
    plan: Plan
    options: Sequence[str]
    say: Callable[..., None]

    @property
    def small(self) -> bool:
        """Whether the whole input is little enough for one process."""
        return self.plan.summary.bytes < SMALL_BYTES


class Receipt(Model):
    """What a finished task left: committed files, its unit's part of the manifest, and anything the driver needs."""

    task: int
    files: tuple[File, ...]
    unit: Unit
    facts: dict[str, Any] = Field(default_factory=dict)


def work_folder(stage: str, fingerprint: str) -> str:
    """The work folder of a stage under one fingerprint; another fingerprint never sees its receipts."""
    return f"{stage}-{fingerprint[:16]}"


def receipt_path(run: Run, folder: str, task: int) -> str:
    """Where a task's receipt lies."""
    return run.work(folder, f"receipt-{task:07d}.json")


def write_receipt(run: Run, folder: str, receipt: Receipt) -> None:
    """Commit a receipt; the last thing a task does."""
    metrics.count(receipt)
    run.commit_bytes(receipt_path(run, folder, receipt.task), manifest.dump(receipt))


def unfinished(run: Run, folder: str, tasks: Iterable[int]) -> list[int]:
    """The tasks that have no receipt yet."""
    names = storage.names_in(run.work(folder))
    return [task for task in tasks if f"receipt-{task:07d}.json" not in names]


def read_receipts(run: Run, folder: str, tasks: Iterable[int]) -> list[Receipt]:
    """The receipts of tasks, in task order."""
    paths = [receipt_path(run, folder, task) for task in tasks]
    with ThreadPoolExecutor(16) as pool:
        return [
            manifest.parse(Receipt, data, path)
            for path, data in zip(paths, pool.map(storage.read_bytes, paths), strict=True)
        ]


def commit_table(run: Run, path: str, tables: Iterable[pa.Table], schema: pa.Schema) -> File:
    """Commit a Parquet file; every table becomes one row group, and an empty file is a file."""
    records = 0

    def write(temporary: str) -> None:
        nonlocal records
        with parquet_writer(temporary, schema) as writer:
            for table in tables:
                if table.num_rows:
                    writer.write_table(table)
                    records += table.num_rows

    written = run.commit(path, write)
    return File(path=path.rsplit("/", 1)[1], records=records, bytes=written.bytes, sha256=written.sha256)


class Rejects:
    """The rejects of a unit on their way to a file, counted by reason; of any number, one row group is in memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._held: list[Reject] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, reject: Reject) -> None:
        """Count and write one; only while `commit_with_rejects` is at work."""
        self.counts[f"rejected.{reject.reason}"] += 1
        self._held.append(reject)
        if len(self._held) == _REJECTS_A_GROUP:
            self._flush()

    def write(self, path: str, work: Callable[[], None]) -> None:
        """Write to `path` what is added while `work` runs."""
        with parquet_writer(path, REJECTED) as writer:
            self._writer = writer
            work()
            self._flush()

    def _flush(self) -> None:
        if self._held:
            columns = {name: [getattr(reject, name) for reject in self._held] for name in REJECTED.names}
            assert self._writer is not None
            self._writer.write_table(pa.table(columns, schema=REJECTED))
            self._held = []


def commit_with_rejects(
    run: Run, path: str, tables: Iterable[pa.Table], schema: pa.Schema, rejected_path: str, rejects: Rejects
) -> tuple[File, File]:
    """`commit_table`, and beside it the file of the rejects that are added while `tables` is iterated."""
    files: list[File] = []
    written = run.commit(
        rejected_path,
        lambda temporary: rejects.write(temporary, lambda: files.append(commit_table(run, path, tables, schema))),
    )
    name = rejected_path.rsplit("/", 1)[1]
    count = rejects.counts.total()
    return files[0], File(path=name, records=count, bytes=written.bytes, sha256=written.sha256)


def total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts added up, keys sorted."""
    summed: Counter[str] = Counter()
    for part in counts:
        summed.update(part)
    return dict(sorted(summed.items()))


def read_manifest(run: Run, *parts: str) -> StageManifest | None:
    """A stage's manifest, or None when the stage is not whole."""
    path = run.path(*parts, MANIFEST)
    try:
        return manifest.parse(StageManifest, storage.read_bytes(path), path)
    except FileNotFoundError:
        return None


def is_done(run: Run, folder: str, component: str, expected: str) -> bool:
    """Whether a component's stage is whole under the fingerprint `expected`."""
    found = read_manifest(run, folder, component)
    return found is not None and found.fingerprint == expected


def need_manifest(run: Run, *parts: str) -> StageManifest:
    """A stage's manifest. Raises TokenmillError when the stage is not whole."""
    found = read_manifest(run, *parts)
    if found is None:
        raise TokenmillError(f"{run.path(*parts)}: this stage is not finished; run it first")
    return found


def check_files(run: Run, *parts: str) -> StageManifest:
    """A finished stage's manifest, after a look that its files are there and of the size it states.

    Raises:
        TokenmillError: a file is missing or of another size; names it.
    """
    found = need_manifest(run, *parts)
    check_sizes(run.path(*parts), found.files, found.stage)
    return found


def check_sizes(folder: str, files: Iterable[File], stage: Stage) -> None:
    """Raise TokenmillError unless a stage's files are there and of their size; names the first that is not."""
    sizes = storage.sizes_in(folder)
    for file in files:
        path = storage.join(folder, file.path)
        size = sizes.get(file.path)
        if size != file.bytes:
            state = "is missing" if size is None else f"has {size} bytes"
            raise TokenmillError(
                f"{path}: the manifest says {file.bytes} bytes, but the file {state}; "
                f"make it again with --replace-from {stage}"
            )


def check_sha256(path: str, expected: str, stage: Stage) -> None:
    """Raise TokenmillError unless an input file is what its stage's manifest says."""
    try:
        wrong = "differs from what its manifest says (sha256)" if storage.sha256_of(path) != expected else ""
    except OSError as error:
        wrong = f"cannot be read: {error.strerror or error}"
    if wrong:
        raise TokenmillError(f"{path}: {wrong}; make it again with --replace-from {stage}")


def write_manifest(run: Run, whole: StageManifest, *parts: str) -> None:
    """Commit a stage's manifest: from here on the stage is whole."""
    run.commit_bytes(run.path(*parts, MANIFEST), manifest.dump(whole))


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of packages whose output bytes depend on them."""
    return {package: version(package) for package in sorted(packages)}


def read_json(run: Run, *parts: str) -> Any:
    """A small JSON file of the work folder."""
    return json.loads(storage.read_bytes(run.work(*parts)))

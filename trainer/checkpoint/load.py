"""Checkpoints read: verified as a whole before any value is used, then any slice of any array.

What a checkpoint says is believed only where it agrees with what a save would have written: the records' spelling, the
set of files, their sizes and sums, the arrays' metadata byte for byte, the pieces as an exact cover of each array.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.errors import Refused, TokenmillError
from schemas.gcs import Forbidden
from trainer.checkpoint import arrays, files, records
from trainer.checkpoint.copies import Copies
from trainer.checkpoint.pieces import by_name, cover
from trainer.checkpoint.records import Commit, Damaged, Manifest, Piece

READERS = 4  # files hashed at a time


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """Dtype, by its name in zarr3, and shape of a global array."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A damaged checkpoint that was put aside: what is wrong with it, and where it is now (None: it stayed)."""

    step: int
    reason: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """The newest checkpoint that is whole, if there is one, and the damaged ones that were newer."""

    checkpoint: Checkpoint | None
    quarantined: tuple[Quarantined, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. `meta` is the dictionary it was saved with, as JSON gives it back."""

    path: str
    commit: Commit
    manifests: tuple[Manifest, ...]
    _pieces: dict[str, list[tuple[Manifest, Piece]]] = field(repr=False)
    _copies: Copies | None = field(repr=False, default=None)

    @property
    def step(self) -> int:
        """The step it was saved at."""
        return self.commit.step

    @property
    def meta(self) -> dict[str, Any]:
        """The dictionary that was saved with the arrays."""
        return self.commit.meta

    @property
    def arrays(self) -> dict[str, ArrayInfo]:
        """Dtype and shape of all arrays."""
        return {name: self._info(name) for name in self._pieces}

    @property
    def bytes(self) -> int:
        """Size of all data files."""
        return sum(each.bytes for manifest in self.manifests for each in manifest.files.values())

    def require(self, expected: Mapping[str, ArrayInfo]) -> None:
        """Check that the arrays are exactly those expected; to be called before anything is read.

        Raises:
            Refused: an array is missing or unknown, or of another shape or dtype.
        """
        found = self.arrays
        problems = [f"{name}: missing" for name in expected if name not in found]
        problems += [f"{name}: not known here" for name in found if name not in expected]
        for name, want in expected.items():
            have = found.get(name, want)
            if have != want:
                problems.append(f"{name}: {have.dtype} {have.shape} instead of {want.dtype} {want.shape}")
        if problems:
            more = f" (and {len(problems) - 5} more)" * (len(problems) > 5)
            raise Refused(
                f"{self.path}: its arrays are not those of this run: {'; '.join(problems[:5])}{more}; continue with "
                "the config it was saved with, or start in another folder"
            )

    def read(self, name: str, index: Sequence[slice] | None = None) -> np.ndarray:
        """A slice of a global array, or all of it: an array of its own.

        index: a slice of step 1 for each axis.

        Raises:
            Refused: there is no such array, or the index does not fit it.
            TokenmillError: a file has changed since it was verified, or cannot be fetched.
        """
        if name not in self._pieces:
            raise Refused(f"{self.path}: has no array {name}")
        info = self._info(name)
        begin, end = _bounds(name, info.shape, index)
        out = np.empty([b - a for a, b in zip(begin, end, strict=True)], arrays.DTYPES[info.dtype])
        for manifest, piece in self._pieces[name]:
            low = [max(a, o) for a, o in zip(begin, piece.offset, strict=True)]
            high = [min(b, o + s) for b, o, s in zip(end, piece.offset, piece.shape, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                part = self._read_part(manifest, piece, low, high)
                out[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, begin, strict=True))] = part
        return out

    def _info(self, name: str) -> ArrayInfo:
        piece = self._pieces[name][0][1]
        return ArrayInfo(piece.dtype, tuple(piece.global_shape))

    def _read_part(self, manifest: Manifest, piece: Piece, low: list[int], high: list[int]) -> np.ndarray:
        """Global elements [low, high) of a piece. Whole rows of its first axis are read: those lie together."""
        inside = [slice(a - o, b - o) for a, b, o in zip(low, high, piece.offset, strict=True)]
        rows = inside[0] if inside else slice(0, 1)
        row = math.prod(piece.shape[1:])
        folder = os.path.join(self.path, records.process_name(manifest.process, manifest.processes))
        grid = arrays.Grid(piece.dtype, manifest.arrays[piece.dtype])
        first, last = piece.start + rows.start * row, piece.start + rows.stop * row
        here = folder if self._copies is None else self._copies.of(manifest, grid.names_of(first, last))
        try:
            flat = arrays.read(here, grid, first, last)
        except ValueError as error:
            raise TokenmillError(f"{folder}: changed since it was verified: {error}") from None
        if not inside:
            return flat.reshape(())
        return flat.reshape([rows.stop - rows.start, *piece.shape[1:]])[(slice(None), *inside[1:])]


def _bounds(name: str, shape: Sequence[int], index: Sequence[slice] | None) -> tuple[list[int], list[int]]:
    index = [slice(None)] * len(shape) if index is None else list(index)
    if len(index) != len(shape) or any(each.step not in (None, 1) for each in index):
        raise Refused(f"{name}: {index} is not one slice of step 1 for each axis of shape {tuple(shape)}")
    ranges = [range(size)[each] for size, each in zip(shape, index, strict=True)]
    return [each.start for each in ranges], [max(each.start, each.stop) for each in ranges]


def steps(directory: str) -> list[int]:
    """Steps of the checkpoints with a commit marker, in order."""
    return committed(directory, files.names_in(directory))


def committed(directory: str, names: Sequence[str]) -> list[int]:
    """Steps of those folders of a directory that have a commit marker, in order."""
    folders = [name for name in names if records.step_of(name) is not None]
    found = (records.step_of(name) for name in files.having(directory, folders, records.COMMIT))
    return sorted(step for step in found if step is not None)


def is_committed(directory: str, step: int) -> bool:
    """Whether a step has a commit marker."""
    return files.exists(os.path.join(directory, records.step_name(step), records.COMMIT))


def read_commit(directory: str, step: int) -> Commit:
    """The commit marker of a step, itself verified, nothing else.

    Raises:
        Damaged: it is not what a save wrote.
        Refused: its format version is another.
    """
    name = records.step_name(step)
    path = os.path.join(directory, name, records.COMMIT)
    commit, _ = records.read(path, Commit, records.COMMIT_LIMIT)
    if commit.step != step:
        raise Damaged(f"{path}: is of step {commit.step}")
    return commit


def open_step(directory: str, step: int, beside: bool = False) -> Checkpoint:
    """A step's checkpoint, verified to the last byte.

    beside: another process has just done so. On gs:// the files' sums, which are compared again when they are read,
        are then not compared at once, because that takes a download.

    Raises:
        Damaged: a file is missing, too many, truncated or altered, or not what a save writes.
        Refused: its format version is another.
    """
    path = os.path.join(directory, records.step_name(step))
    try:
        sizes = files.files_below(path)
        commit = read_commit(directory, step)
        manifests = _manifests(path, commit)
        check_names(path, sizes, manifests, {records.COMMIT})
        _check_metadata(path, manifests)
        if not (beside and files.is_remote(path)):
            _check_sums(path, manifests)
    except files.NotPlain as error:
        raise Damaged(str(error)) from None
    except OSError as error:
        raise Damaged(f"{error.filename or path}: {error.strerror or error}") from None
    copies = Copies(path) if files.is_remote(path) else None
    return Checkpoint(path, commit, tuple(manifests), _assemble(path, manifests), copies)


def _manifests(path: str, commit: Commit) -> list[Manifest]:
    names = [f"{records.process_name(p, commit.processes)}.json" for p in range(commit.processes)]
    if sorted(commit.manifests) != names:
        raise Damaged(f"{path}: {records.COMMIT} does not name the manifests of {commit.processes} processes")
    manifests = []
    for process, name in enumerate(names):
        file = os.path.join(path, name)
        manifest, found = records.read(file, Manifest, records.MANIFEST_LIMIT)
        if found != commit.manifests[name]:
            raise Damaged(f"{file}: not the manifest that {records.COMMIT} names")
        mine = (manifest.save, manifest.step, manifest.process, manifest.processes)
        if mine != (commit.save, commit.step, process, commit.processes):
            raise Damaged(f"{file}: of another save, step or process")
        manifests.append(manifest)
    return manifests


def check_names(path: str, sizes: dict[str, int], manifests: Sequence[Manifest], beside: set[str]) -> None:
    """Compare the files there are with those the manifests name and with those a save writes for such arrays.

    sizes: of the files that are there. beside: names there must be besides the manifests and their files.

    Raises:
        Damaged: a file is missing, does not belong there or has another size.
    """
    expected = set(beside)
    for manifest in manifests:
        folder = records.process_name(manifest.process, manifest.processes)
        expected.add(f"{folder}.json")
        if not set(manifest.arrays) <= set(arrays.DTYPES) or 0 in manifest.arrays.values():
            raise Damaged(f"{path}/{folder}.json: arrays that cannot be: {str(manifest.arrays)[:200]}")
        grids = [arrays.Grid(dtype, elements) for dtype, elements in manifest.arrays.items()]
        if sum(1 + grid.files for grid in grids) != len(manifest.files) or set(manifest.files) != {
            name for grid in grids for name in grid.names
        }:
            raise Damaged(f"{path}/{folder}.json: its files are not those of its arrays")
        expected.update(f"{folder}/{name}" for name in manifest.files)
    for problem, names in (("is missing", expected - sizes.keys()), ("does not belong there", sizes.keys() - expected)):
        if names:
            raise Damaged(f"{path}/{min(names)}: {problem}" + f" (and {len(names) - 1} more)" * (len(names) > 1))
    for manifest in manifests:
        folder = records.process_name(manifest.process, manifest.processes)
        for name, each in manifest.files.items():
            if sizes[f"{folder}/{name}"] != each.bytes:
                raise Damaged(
                    f"{path}/{folder}/{name}: has {sizes[f'{folder}/{name}']:,} bytes instead of {each.bytes:,}"
                )
            if each.bytes > arrays.LARGEST_FILE:
                raise Damaged(f"{path}/{folder}/{name}: has {each.bytes:,} bytes, more than a save writes")


def _check_metadata(path: str, manifests: Sequence[Manifest]) -> None:
    """Compare the arrays' metadata with what a save writes."""
    texts = {
        f"{path}/{records.process_name(manifest.process, manifest.processes)}/{dtype}/{arrays.METADATA}": arrays.Grid(
            dtype, elements
        ).metadata_bytes
        for manifest in manifests
        for dtype, elements in manifest.arrays.items()
    }
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: files.read_small(name, len(texts[name])), texts)
        for name, text in zip(texts, found, strict=True):
            if text != texts[name]:
                raise Damaged(f"{name}: not the metadata that a save writes")


def _check_sums(path: str, manifests: Sequence[Manifest]) -> None:
    """Compare the sha256 of all files with the manifests'."""
    sums = {
        f"{path}/{records.process_name(manifest.process, manifest.processes)}/{name}": each
        for manifest in manifests
        for name, each in manifest.files.items()
    }
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: files.sha256_of(name, sums[name].bytes), sums)
        for name, digest in zip(sums, found, strict=True):
            if digest != sums[name].sha256:
                raise Damaged(f"{name}: its sha256 is not that of its manifest")


def _assemble(path: str, manifests: Sequence[Manifest]) -> dict[str, list[tuple[Manifest, Piece]]]:
    found: dict[str, list[tuple[Manifest, Piece]]] = {}
    for manifest in manifests:
        for piece in manifest.pieces:
            have = manifest.arrays.get(piece.dtype, 0)
            if piece.dtype not in arrays.DTYPES or piece.start + math.prod(piece.shape) > have:
                raise Damaged(f"{path}: {piece.name} of process {manifest.process} is not in its array")
            found.setdefault(piece.name, []).append((manifest, piece))
    for name, pieces in by_name(piece for manifest in manifests for piece in manifest.pieces).items():
        if problem := cover(name, pieces):
            raise Damaged(f"{path}: {problem}")
    return found


def newest_good(directory: str, before: int | None = None) -> Found:
    """The newest checkpoint that is whole, of an earlier step than `before` if that is given.

    Newer ones that are damaged are renamed to quarantined-step-…, not deleted.

    For one process of a run; the others open the step it found (`open_step`).

    Raises:
        Refused: the newest is whole but of another format version.
    """
    quarantined: list[Quarantined] = []
    for step in reversed(steps(directory)):
        if before is not None and step >= before:
            continue
        try:
            return Found(open_step(directory, step), tuple(quarantined))
        except Damaged as error:
            quarantined.append(Quarantined(step, str(error), _put_aside(directory, step)))
    return Found(None, tuple(quarantined))


def _put_aside(directory: str, step: int) -> str | None:
    try:
        return _move(directory, step, records.QUARANTINED)
    except (OSError, Forbidden):
        return None  # told as such: a read-only folder must not keep the older checkpoint from being used


def _move(directory: str, step: int, prefix: str) -> str:
    """Take a step's folder out of the count under a name that is free."""
    name = os.path.join(directory, f"{prefix}{records.step_name(step)}")
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return files.move(os.path.join(directory, records.step_name(step)), names, records.COMMIT)


def abandon_after(directory: str, step: int) -> list[str]:
    """Take the checkpoints after a step out of the count, when a run goes back to it; returns where they are now.

    They are renamed to abandoned-step-…, so that a kill does not bring them back and their steps can be saved again;
    the next save that is committed deletes them. On gs://, where that would copy them, they only lose their markers,
    and go as leftovers do. For one process of a run, while no save is running.

    Raises:
        OSError, TokenmillError: it cannot be done.
    """
    later = [each for each in reversed(steps(directory)) if each > step]
    if not files.is_remote(directory):
        return [_move(directory, each, records.ABANDONED) for each in later]
    folders = [os.path.join(directory, records.step_name(each)) for each in later]
    for folder in folders:
        files.remove(os.path.join(folder, records.COMMIT))
    return folders

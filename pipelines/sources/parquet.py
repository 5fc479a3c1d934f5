"""Parquet: a document a row; units are row groups. Only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.base import InputRead, RawDocument, Reject, Slice, one_line, printable, sample
from pipelines.sources.columns import document, needed
from pipelines.sources.streams import BLOCK, Tally, blocks, open_input

if TYPE_CHECKING:
    from schemas.config import Source

_BATCH_BYTES = 8 << 20
_REPEATED_BYTES = 128 << 20
_BATCH_ROWS = 1024
_MAGIC = (b"PAR1", b"PARE")
_ERRORS = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group. row: that of its first; bytes: all its rows, decoded; chunks: byte ranges read, sorted."""

    index: int
    row: int
    rows: int
    bytes: int
    chunks: tuple[tuple[int, int], ...]


class _Closed(Exception):
    """A read through a closed door."""


class _Door:
    """A file that gives nothing while `closed_to_reads`."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.closed_to_reads = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises _Closed."""
        if self.closed_to_reads:
            raise _Closed
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def split_parquet(source: Source, root: str, path: str, size: int, unit_bytes: int) -> list[tuple[Slice, int]]:
    """Runs of row groups, each with its compressed bytes in the columns read, near `unit_bytes`.

    An unreadable footer gives the slice 0..-1, whose reading says why.
    """
    try:
        with open_input(root, path, size) as file:
            door, table = _open(file)
            groups = _groups(door, table, _present(source, table), size)
    except _ERRORS:
        return [(Slice(path, size, 0, -1), size)]
    runs: list[tuple[Slice, int]] = []
    start, held = 0, 0
    for group in groups:
        weight = sum(stop - first for first, stop in group.chunks)
        if held and held + weight > unit_bytes:
            runs.append((Slice(path, size, start, group.index), held))
            start, held = group.index, 0
        held += weight
    return [*runs, (Slice(path, size, start, len(groups)), held)]


def read_parquet(source: Source, root: str, slice_: Slice) -> Iterator[RawDocument | Reject | InputRead]:
    """The documents of a slice's row groups, a small batch of rows in memory at a time.

    Where a row group breaks, its remaining rows are one reject and the next group is read.
    """
    tally = Tally()
    with open_input(root, slice_.path, slice_.size) as file:
        try:
            door, table = _open(file)
            schema = table.schema_arrow
            columns = _present(source, table)
            groups = _groups(door, table, columns, slice_.size)
        except _ERRORS as error:
            yield _broken_file(file, slice_, one_line(error))
            tally.read(blocks(file, slice_.path, 0, slice_.size))
            groups = []
        else:
            problem = _text_problem(source, schema, slice_)
            if problem is not None:
                yield problem
                groups = []
        for group in groups[slice_.start : slice_.stop]:
            for start, stop in group.chunks:
                tally.read(blocks(file, slice_.path, start, stop))
            yield from _read_group(source, table, slice_.path, group, columns)
    yield tally.input_read(slice_.path)


def _open(file: IO[bytes]) -> tuple[_Door, pq.ParquetFile]:
    """A file and the door it is read through. Raises one of _ERRORS."""
    door = _Door(file)
    return door, pq.ParquetFile(door, buffer_size=BLOCK, pre_buffer=False)


def _present(source: Source, table: pq.ParquetFile) -> list[str]:
    """The columns that are read and there."""
    return [name for name in needed(source) if name in table.schema_arrow.names]


def _groups(door: _Door, table: pq.ParquetFile, columns: list[str], size: int) -> list[_Group]:
    """The row groups by the footer. Raises one of _ERRORS where a file of `size` bytes cannot hold them."""
    groups: list[_Group] = []
    row = 0
    numbers = [n for n in range(len(table.schema)) if table.schema.column(n).path.split(".")[0] in columns]
    for index in range(table.metadata.num_row_groups):
        _check_footer(door, table, index, columns)
        info = table.metadata.row_group(index)
        chunks = []
        for number in numbers:
            chunk = info.column(number)
            first = min(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset)
            chunks.append((first, first + chunk.total_compressed_size))
        if info.num_rows < 0 or not all(0 <= first <= stop <= size for first, stop in chunks):
            raise ValueError(f"the footer places row group {index} outside the file")
        groups.append(_Group(index, row, info.num_rows, info.total_byte_size, tuple(sorted(chunks))))
        row += info.num_rows
    return groups


def _check_footer(door: _Door, table: pq.ParquetFile, index: int, columns: list[str]) -> None:
    """Raise one of _ERRORS where Arrow rejects what the footer says of the columns of a row group.

    Asked for such a column, pyarrow's metadata ends the process; reading tells, before it reads anything.
    """
    door.closed_to_reads = True
    try:
        next(table.iter_batches(batch_size=1, row_groups=[index], columns=columns, use_threads=False), None)
    except _Closed:
        pass
    finally:
        door.closed_to_reads = False


def _read_group(
    source: Source, table: pq.ParquetFile, path: str, group: _Group, columns: list[str]
) -> Iterator[RawDocument | Reject]:
    """The documents of one row group."""
    row, end = group.row, group.row + group.rows
    average = max(1, group.bytes // max(1, group.rows))
    # A dictionary stores a value once for many rows: each may be as long as all that the group stores.
    size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // average, _REPEATED_BYTES // max(1, group.bytes)))
    batches = table.iter_batches(batch_size=size, row_groups=[group.index], columns=columns, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            values = {name: _values(batch.column(name)) for name in columns} if batch is not None else {}
        except _ERRORS as error:
            detail = f"rows {row} to {end - 1}, the rest of row group {group.index}: {one_line(error)}"
            yield Reject(f"{path}#{row}", row, "corrupt", detail, "")
            return
        if batch is None:
            break
        textual = not _is_binary(batch.schema.field(source.text).type)
        for index in range(batch.num_rows):
            place = f"{path}#{row}"
            text = values[source.text][index]
            if textual and isinstance(text, bytes):
                yield Reject(place, row, "not_utf8", f"column {source.text!r} does not decode", sample(text))
            else:
                yield document(source, place, row, {name: held[index] for name, held in values.items()}, b"")
            row += 1
    if row != end:
        detail = f"row group {group.index} ends before row {row}, its footer says {end}"
        yield Reject(f"{path}#{row}", row, "corrupt", detail, "")


def _values(column: pa.Array) -> list[object]:
    """A column as Python values; a string that does not decode (Arrow does not check) as its bytes."""
    try:
        return list(column.to_pylist())
    except (UnicodeDecodeError, ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> object:
    """One value; the bytes of a string that does not decode; None for what Python cannot hold."""
    try:
        return scalar.as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        if pa.types.is_dictionary(scalar.type):
            scalar = scalar.value
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _text_problem(source: Source, schema: pa.Schema, slice_: Slice) -> Reject | None:
    """Why no row of the file can give text, if so."""
    if source.text not in schema.names:
        detail = f"no column {source.text!r}; there are {printable(', '.join(schema.names))}"
        return Reject(slice_.path, 0, "missing_text", detail, "")
    kind = schema.field(source.text).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if _is_binary(plain) or pa.types.is_null(plain):
        return None
    if pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain):
        return None
    return Reject(slice_.path, 0, "not_text", f"column {source.text!r} is of type {kind}, not text", "")


def _broken_file(file: IO[bytes], slice_: Slice, detail: str) -> Reject:
    """A file without a usable footer: `truncated` if it begins but does not end as Parquet, or `corrupt`."""
    head = next(blocks(file, slice_.path, 0, min(1024, slice_.size)), b"")
    tail = b"".join(blocks(file, slice_.path, max(0, slice_.size - 4), slice_.size))
    reason = "truncated" if head[:4] in _MAGIC and tail not in _MAGIC else "corrupt"
    return Reject(slice_.path, 0, reason, detail, sample(head))

"""Bytes of an input as bounded blocks: opened, checked, hashed, decompressed, cut into lines.

Every step is a generator over blocks, so memory is a block and, for lines, the one line that is being put
together.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import zstandard

from pipelines.sources.base import InputRead, Slice, SourceChanged, SourceUnreachable, one_line
from pipelines.sources.paths import is_remote, local_bytes, unquote
from schemas import storage
from schemas.errors import TokenmillError
from schemas.gcs import Absent, Changed

BLOCK = 1 << 20
_HEAD = 1024
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)  # nothing, a folder or a socket has the name


class Damaged(Exception):
    """Data that gives no document, and why. Becomes a Reject."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _Remote(io.RawIOBase):
    """A remote file whose failures name it and are told from damage in its data."""

    def __init__(self, path: str):
        self._path = path
        self._file: Any = self._try(lambda: storage.open_remote(path))

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (Absent, Changed):
            raise SourceChanged(self._path, "gone or replaced since it was listed") from None
        except TokenmillError as error:  # names the path itself
            raise SourceUnreachable(f"{error}; run again to go on") from error
        except Exception as error:
            raise SourceUnreachable(f"{self._path}: {one_line(error)}; run again to go on") from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._try(lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._try(lambda: self._file.seek(offset, whence))
        return self.tell()

    def tell(self) -> int:
        return int(self._try(self._file.tell))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_input(root: str, path: str, size: int | None = None) -> IO[bytes]:
    """Open an input for unbuffered, seekable reading. size: the bytes it must have, where known.

    Raises SourceChanged if it is gone, no regular file or of another size, OSError if it is local and cannot be opened,
    SourceUnreachable if it is remote and cannot be.
    """
    file: Any
    if is_remote(root):
        file = _Remote(f"{root}/{unquote(path).decode('utf-8')}")
    else:
        try:
            file = open(local_bytes(root, path), "rb", buffering=0, opener=_open_now)  # noqa: SIM115 - the caller closes it
        except OSError as error:
            if error.errno in _NO_FILE:
                raise SourceChanged(path, "gone since it was listed") from None
            raise
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise SourceChanged(path, "no regular file any more, as it was when listed")
    found = file.seek(0, io.SEEK_END) if is_remote(root) else os.fstat(file.fileno()).st_size
    if size is not None and found != size:
        file.close()
        raise SourceChanged(path, f"{size} bytes when listed, {found} now")
    file.seek(0)
    return file


def _open_now(path: Any, flags: int) -> int:
    """Open without waiting for the other end, as a fifo that took a file's place would have it."""
    return os.open(path, flags | os.O_NONBLOCK)


class Tally:
    """Counts and hashes the bytes a slice consumes."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Take `data` into account."""
        self.size += len(data)
        self._hash.update(data)

    def read(self, data: Iterable[bytes]) -> None:
        """Take all blocks into account."""
        for block in data:
            self.add(block)

    def over(self, data: Iterable[bytes]) -> Iterator[bytes]:
        """The same blocks, each accounted for as it passes."""
        for block in data:
            self.add(block)
            yield block

    def input_read(self, path: str) -> InputRead:
        """The account."""
        return InputRead(path, self.size, self._hash.hexdigest())


def blocks(file: IO[bytes], path: str, start: int, stop: int) -> Iterator[bytes]:
    """Bytes [start, stop) of a file in blocks of BLOCK. Raises SourceChanged when it ends before `stop`.

    All blocks but the last are full, whatever the file gives at a time: how much of a damaged stream can be
    decoded depends on how it is fed, and must not depend on where the file lies.
    """
    file.seek(start)
    while start < stop:
        wanted = min(BLOCK, stop - start)
        block = b""
        while len(block) < wanted:
            part = file.read(wanted - len(block))
            if not part:
                raise SourceChanged(path, f"ends at byte {start + len(block)}, {stop} expected")
            block = block + part if block else part
        start += wanted
        yield block


def compression(path: str) -> str:
    """`gz`, `zst` or '' by the name's ending."""
    lower = path.lower()
    if lower.endswith((".gz", ".tgz")):
        return "gz"
    return "zst" if lower.endswith((".zst", ".tzst")) else ""


def decompressed(data: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """The content of a gzip or zstd stream of any number of members or frames; the data itself for kind ''.

    Input is fed in pieces small enough that the densest possible data (1:1032 for deflate, 128 KiB from a
    4-byte block for zstd) stays at 64 MiB. Raises Damaged where the stream breaks or ends inside a member.
    """
    if not kind:
        yield from data
        return
    piece_bytes = 1 << 16 if kind == "gz" else 1 << 11
    decoder: Any = None
    members = 0
    for block in data:
        for at in range(0, len(block), piece_bytes):
            rest = block[at : at + piece_bytes]
            while rest:
                if decoder is None:
                    if kind == "gz" and members:
                        rest = rest.lstrip(b"\0")  # gzip files may be padded with zeros
                    if not rest:
                        break
                    decoder = _decoder(kind)
                try:
                    content = decoder.decompress(rest)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise Damaged("corrupt", f"{kind}: {one_line(error)}") from None
                if content:
                    yield content
                rest = b""
                if decoder.eof:
                    rest, decoder, members = decoder.unused_data, None, members + 1
    if decoder is not None or not members:
        raise Damaged("truncated", f"{kind}: the stream ends before its last frame does")


def _decoder(kind: str) -> Any:
    if kind == "gz":
        return zlib.decompressobj(wbits=31)
    # Corpora are often packed with --long=31; such a window is paid for only by data that uses it.
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its newline.

    offset: of its first byte; length: its bytes; data: all of them, or a few of the first if it is too long.
    """

    offset: int
    length: int
    data: bytes


def lines(data: Iterable[bytes], offset: int, limit: int) -> Iterator[Line]:
    """The lines of a stream whose first byte lies at `offset`; lines above `limit` bytes are not held."""
    held: list[bytes] = []
    length = 0
    for block in data:
        begin = 0
        while begin < len(block):
            newline = block.find(b"\n", begin)
            end = newline if newline >= 0 else len(block)
            piece = block[begin:end]
            length += len(piece)
            if length <= limit:
                held.append(piece)
            else:
                held = [b"".join(held)[:_HEAD] or piece[:_HEAD]]
            begin = end + 1
            if newline >= 0:
                yield Line(offset, length, b"".join(held))
                offset += length + 1
                held, length = [], 0
    if length:
        yield Line(offset, length, b"".join(held))


def line_start(file: IO[bytes], path: str, at: int, stop: int) -> int:
    """The first byte offset >= `at` where a line begins, or `stop` if none begins before it."""
    if at == 0:
        return 0
    position = at - 1
    for block in blocks(file, path, position, stop):
        newline = block.find(b"\n")
        if newline >= 0:
            return position + newline + 1
        position += len(block)
    return stop


def owned(file: IO[bytes], slice_: Slice) -> tuple[int, Iterator[bytes]]:
    """Where the first line that starts in [start, stop) begins, and the bytes of all lines that start there.

    Both ends follow one rule, so neighbouring slices meet exactly, whatever the cuts; a slice inside one long
    line owns nothing and reads no further than its own end.
    """
    begin = line_start(file, slice_.path, slice_.start, slice_.stop)
    end = line_start(file, slice_.path, slice_.stop, slice_.size) if begin < slice_.stop else begin
    return begin, blocks(file, slice_.path, begin, end)

"""Tar archives, plain or compressed: a document a regular member, read as a stream; nothing is extracted.

tarfile takes a damaged or missing header for the end of the archive; `_Header` tells these from the end
marker.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, cast

from pipelines.sources.base import MAX_DOCUMENT_BYTES, InputRead, RawDocument, Reject, Slice, one_line
from pipelines.sources.paths import quote, selector
from pipelines.sources.streams import Damaged, Tally, blocks, compression, decompressed, open_input

if TYPE_CHECKING:
    from schemas.config import Source

_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_EXTENSION = 1 << 20
_MAX_CHAIN = 32  # headers that may stand before one member; a path, a link, extended and global ones do
_RECORD = re.compile(rb"([0-9]{1,20}) ")
_LONG_NUMBER = re.compile(rb"[0-9]{257}")
_ERRORS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)


class _Header(tarfile.TarInfo):
    """A member header that does not pass for the end of the archive when it is damaged."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        stream = cast(_Stream, archive.fileobj)
        stream.chain += 1
        try:
            if stream.chain > _MAX_CHAIN:
                # By the interpreter's stack alone, the number would depend on who calls.
                raise Damaged("corrupt", f"tar: more than {_MAX_CHAIN} headers for one member")
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
            raise Damaged("truncated", "tar: the archive ends without its end marker") from None
        except tarfile.HeaderError as error:
            raise Damaged("corrupt", f"tar: {one_line(error)}") from None
        finally:
            stream.chain -= 1

    def _proc_pax(self, archive: tarfile.TarFile) -> _Header:
        # On others than these Python up to 3.11.9 takes quadratic time and memory (CVE-2024-6232).
        size = self.size + -self.size % tarfile.BLOCKSIZE
        data = cast(_Stream, archive.fileobj).peek(size)
        if len(data) < size:
            raise Damaged("truncated", "tar: the archive ends within a pax header")
        _check_records(data)
        return super()._proc_pax(archive)  # type: ignore[misc]

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Header:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _EXTENSIONS and info.size > _MAX_EXTENSION):
            raise Damaged("corrupt", f"tar: a header claims {info.size} bytes")
        return info


def _check_records(data: bytes) -> None:
    """Raise Damaged unless `data` is records of the pax format, "length key=value\\n", up to the first 0."""
    at = 0
    while at < len(data) and data[at]:
        prefix = _RECORD.match(data, at)
        end = at + int(prefix[1]) if prefix else 0
        if not prefix or not prefix.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise Damaged("corrupt", "tar: a pax header is no list of records")
        if data.find(b"=", prefix.end(), end) <= prefix.end():
            raise Damaged("corrupt", "tar: a pax header holds a record without a key")
        at = end
    if _LONG_NUMBER.search(data):
        raise Damaged("corrupt", "tar: a pax header holds a number of more than 256 digits")


class _Stream:
    """A stream as the forward-only file tarfile needs.

    end: bytes up to the last so far that is not 0. chain: headers begun for the member that is being looked for.
    tarfile's own stream mode copies its whole buffer for every header.
    """

    def __init__(self, content: Iterator[bytes]):
        self._content = content
        self._block = b""
        self._start = 0
        self._at = 0
        self.end = 0
        self.chain = 0

    def pull(self) -> bool:
        """Go to the next block; False at the end of the stream."""
        self._start += len(self._block)
        self._at = 0
        self._block = next(self._content, b"")
        kept = len(self._block.rstrip(b"\0"))
        self.end = self._start + kept if kept else self.end
        return bool(self._block)

    def tell(self) -> int:
        """The position."""
        return self._start + self._at

    def seek(self, position: int) -> None:
        """Go forward. Raises tarfile.StreamError on a step back."""
        if position < self.tell():
            raise tarfile.StreamError("a member lies before the one that precedes it")
        while position > self._start + len(self._block) and self.pull():
            pass
        self._at = min(position - self._start, len(self._block))

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end of the stream."""
        data = self._block[self._at : self._at + size]
        self._at += len(data)
        if len(data) == size:
            return data
        pieces, missing = [data], size - len(data)
        while missing and self.pull():
            pieces.append(self._block[:missing])
            self._at = len(pieces[-1])
            missing -= self._at
        return b"".join(pieces)

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end of the stream, without going on."""
        data = self.read(size)
        self._start = self.tell() - len(data)
        self._block = data + self._block[self._at :]
        self._at = 0
        return data


def read_tar(
    source: Source, root: str, slice_: Slice, limit: int = MAX_DOCUMENT_BYTES
) -> Iterator[RawDocument | Reject | InputRead]:
    """The documents of an archive's members, then a reject where it breaks, if it does."""
    tally = Tally()
    with open_input(root, slice_.path, slice_.size) as file:
        raw = tally.over(blocks(file, slice_.path, 0, slice_.size))
        stream = _Stream(decompressed(raw, compression(slice_.path)))
        yield from _members(source, slice_.path, stream, limit)
        for _ in raw:
            pass  # the hash is that of the whole slice, damaged or not
    yield tally.input_read(slice_.path)


def _members(source: Source, path: str, stream: _Stream, limit: int) -> Iterator[RawDocument | Reject]:
    selected = selector(source.include, source.exclude)
    offset = 0
    try:
        archive = tarfile.TarFile(
            fileobj=cast(IO[bytes], stream), tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
        )
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps every header seen
            offset = info.offset
            found = _member(source, path, archive, info, offset, selected=selected, limit=limit)
            if found is not None:
                yield found
            offset = archive.offset
        while stream.pull():
            pass
        if stream.end > offset:
            raise Damaged("data_after_end", "tar: more follows the end marker; archives joined end to end?")
    except Damaged as damage:
        yield Reject(f"{path}#{offset}", offset, damage.reason, damage.detail, "")
    except _ERRORS as error:
        reason = "truncated" if "unexpected end of data" in str(error) else "corrupt"
        yield Reject(f"{path}#{offset}", offset, reason, f"tar: {one_line(error)}", "")


def _member(
    source: Source,
    path: str,
    archive: tarfile.TarFile,
    info: tarfile.TarInfo,
    offset: int,
    *,
    selected: Callable[[str], bool],
    limit: int,
) -> RawDocument | Reject | None:
    """The document of one member; None for folders and what is not selected."""
    name = info.name.removeprefix("./")
    if info.isdir() or not selected(name):
        return None
    place = f"{path}#{quote(info.name.encode('utf-8', 'surrogateescape'))}"
    if name.startswith("/") or ".." in name.split("/"):
        return Reject(place, offset, "unsafe_path", "the name is absolute or leads out of the archive", "")
    if not info.isreg():
        kind = "link" if info.issym() or info.islnk() else "device or other special member"
        return Reject(place, offset, "not_a_regular_file", f"a {kind}", "")
    if info.size > limit:
        detail = f"{info.size} bytes, at most {limit} are read as one document"
        return Reject(place, offset, "file_too_long", detail, "")
    content = archive.extractfile(info)
    data = content.read() if content is not None else b""
    if len(data) != info.size:
        raise Damaged("truncated", f"tar: {len(data)} of the member's {info.size} bytes are there")
    return RawDocument(place, offset, data, dict(source.labels), None)

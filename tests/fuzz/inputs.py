"""Valid inputs of every format, to be altered; altered content can be packed again so that checksums hold."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from hypothesis import strategies as st

from tests.fuzz.alterations import altered

_ROWS: Final = [
    {"text": f"<{i}> é中\n" * (i % 4), "m": [i, {"k": None}], "n": "\ud83d\ude00", "q": i / 2} for i in range(12)
]


def jsonl_inputs() -> list[bytes]:
    """Lines of every kind that are read or rejected."""
    rows = [json.dumps(row, ensure_ascii=i % 2 == 0).encode("utf-8", "surrogatepass") for i, row in enumerate(_ROWS)]
    odd = [b"", b" ", b"[]", b"{}", b'{"text": null}', b'{"text": 3}', b'{"text": "\\ud800"}', b'{"text": "a"} x']
    return [
        b"\n".join(rows) + b"\n",
        b"\xef\xbb\xbf" + b"\r\n".join(rows[:3]),
        b"\n".join(odd),
        b'{"text": "a", "m": ' + b"[" * 120 + b"]" * 120 + b', "q": NaN}\n',
        b'{"text": "' + b"long " * 400 + b'", "q": 1e999}\n' + rows[1],
    ]


def tar_inputs() -> list[bytes]:
    """Archives in all formats, with members of every kind."""
    names = {"a.py": b"x = 1\n" * 90, "b/" * 60 + "é.py": b"y" * 512, "./c": b"", "d": bytes(range(256)) * 3}
    made = []
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        buffer = io.BytesIO()
        headers = {"comment": "c"} if form == tarfile.PAX_FORMAT else {}
        with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers=headers) as archive:
            for name, data in names.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/" + "p" * (150 if form != tarfile.USTAR_FORMAT else 9)
            archive.addfile(link)
        made.append(buffer.getvalue()[: buffer.tell()].rstrip(b"\0") + bytes(1024 + 512))
        made[-1] += bytes(-len(made[-1]) % 512)
    return [*made, _sparse()]


def _sparse() -> bytes:
    """A GNU sparse member: 16 bytes of data in a file of 4096."""
    info = tarfile.TarInfo("sparse")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 16
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410], header[483:495] = b"00000001000\0", b"00000000020\0", b"00000010000\0"
    return with_checksums(bytes(header)) + b"sixteen  bytes.\n".ljust(512, b"\0") + bytes(1024)


def with_checksums(data: bytes) -> bytes:
    """An archive in which every block that passes for a header has the checksum of one."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if len(block) == 512 and block[257:262] == b"ustar":
            block[148:156] = b"        "
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(bytes(block) for block in blocks)


def parquet_inputs() -> list[bytes]:
    """Files of several row groups: text and binary, dictionaries, nulls, nested columns, all compressions."""
    texts = [f"row {i} é" * (i % 3) for i in range(24)]
    more: dict[str, Any] = {
        "m": [{"a": [i], "b": None} for i in range(24)],
        "n": pa.array(range(24), pa.timestamp("ns")),
        "q": [i / 2 for i in range(24)],
    }
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"text": texts, **more}, {"compression": "snappy"}),
        ({"text": [None if i % 5 == 0 else t for i, t in enumerate(texts)]}, {"compression": "zstd"}),
        ({"text": pa.array([t.encode() for t in texts], pa.large_binary())}, {"compression": "gzip"}),
        ({"text": pa.array(texts).dictionary_encode()}, {"compression": "none", "write_page_index": True}),
        ({"text": texts}, {"compression": "lz4", "data_page_version": "2.0", "column_encoding": "DELTA_BYTE_ARRAY"}),
        ({"other": texts}, {"compression": "brotli"}),
        ({"text": range(24)}, {}),
    ]
    made = []
    for columns, options in kinds:
        buffer = io.BytesIO()
        dictionary = "column_encoding" not in options
        pq.write_table(pa.table(columns), buffer, row_group_size=7, use_dictionary=dictionary, **options)
        made.append(buffer.getvalue())
    return made


def gzipped(data: bytes, level: int = 6, members: int = 1) -> bytes:
    """The data as a gzip file of several members, without the time of day."""
    size = -(-len(data) // members) or 1
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return b"".join(gzip.compress(part, level, mtime=0) for part in parts)


def zstandard_frames(data: bytes, level: int = 3, members: int = 1) -> bytes:
    """The data as several zstd frames, every other one with a checksum and without its size."""
    size = -(-len(data) // members) or 1
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    plain = zstandard.ZstdCompressor(level=level)
    checked = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=False)
    return b"".join((checked if i % 2 else plain).compress(part) for i, part in enumerate(parts))


def raw_deflate(data: bytes) -> bytes:
    """A gzip member with a stored block and every optional field of the header."""
    packer = zlib.compressobj(0, wbits=-15)
    body = packer.compress(data) + packer.flush()
    head = b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff" + b"\x03\0abc" + b"name\0" + b"comment\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    return head + body + zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")


PLAIN: Final[dict[str, Callable[[], list[bytes]]]] = {
    "files": jsonl_inputs,
    "jsonl": jsonl_inputs,
    "tar": tar_inputs,
    "parquet": parquet_inputs,
}


def contents(name: str) -> st.SearchStrategy[bytes]:
    """Bytes of a file called `x.<name>`: altered, or altered and then packed so that checksums hold, or both."""
    form, _, packing = name.partition(".")
    seeds = PLAIN[form]()
    plain = altered(seeds)
    if form == "tar":
        plain = st.one_of(plain, plain.map(with_checksums))
    if not packing:
        return plain
    pack = gzipped if packing == "gz" else zstandard_frames
    packed = [*(pack(seed) for seed in seeds), pack(seeds[0], 1, 3), pack(b"")]
    packed += [raw_deflate(seeds[0])] if packing == "gz" else []
    return st.one_of(
        altered(packed),
        st.builds(pack, plain, st.sampled_from([1, 9]), st.integers(1, 3)),
    )

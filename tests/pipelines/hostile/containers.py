"""Lines and containers of every shape: JSONL, plain and compressed, Parquet and tar."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipelines.sources.paths import quote
from tests.pipelines.hostile.cases import SPELLED, Expected, Made, plain
from tests.pipelines.hostile.runs import neighbours


def jsonl(folder: Path) -> Made:
    """JSON Lines: every shape a line may have, then streams that break."""
    folder.mkdir(parents=True)
    expected = Expected()
    good = neighbours(3000)
    bad: list[tuple[str, str]] = [
        ("{broken", "broken_json"),
        ('{"text": "an end is missing', "broken_json"),
        ('{"text": "' + plain(3100).replace("\n", " ") + '"} and more', "broken_json"),
        ("[1, 2]", "not_an_object"),
        ("7", "not_an_object"),
        ('"text"', "not_an_object"),
        ("null", "not_an_object"),
        ("{}", "missing_text"),
        ('{"text": null}', "missing_text"),
        ('{"TEXT": "another key"}', "missing_text"),
        ('{"text": ["a", "b"]}', "not_text"),
        ('{"text": {"text": "nested"}}', "not_text"),
        ('{"text": 7}', "not_text"),
        ('{"text": ' + "9" * 5000 + "}", "broken_json"),
        ("[" * 100_000, "broken_json"),
        ('{"text": "a", "b": ' + "[" * 100_000 + "]" * 100_000 + "}", "broken_json"),
        ('{"text": "half \\ud83d of a pair"}', "lone_surrogate"),
        ('{"text": "\\udc00"}', "lone_surrogate"),
        ('{"text": ""}', "empty"),
        ('{"text": "\\u0000\\ufeff\\n"}', "empty"),
        ("\x1b[31m\x07", "broken_json"),
    ]
    held = [
        (json.dumps({"text": plain(3200)}, ensure_ascii=True), plain(3200)),
        (f'{{"text": "of two keys the last counts", "text": {json.dumps(plain(3201))}}}', plain(3201)),
        (json.dumps({"text": plain(3202), "n": 10**4000}), plain(3202)),
        (json.dumps({"text": plain(3203), "language": "\x1b[31mred\u202e\n", "score": 1e400}), plain(3203)),
        (json.dumps({"text": plain(3204) + " \U0001f600"}), plain(3204) + " \U0001f600"),
        (json.dumps({"text": plain(3205) + "\0\x1b[2J"}), plain(3205) + "[2J"),
        (json.dumps({"text": plain(3206), "language": "half \ud800"}), plain(3206)),
        (json.dumps({"text": "".join(f"{name} x{name}y\n" for name in SPELLED) + plain(3207)}),
         "".join(f"{name} x{name}y\n" for name in SPELLED) + plain(3207)),
    ]  # fmt: skip
    lines: list[bytes] = []
    for number, (line, reason) in enumerate(bad):
        lines += [line.encode(), *([json.dumps({"text": good[number]}).encode()] if number < len(good) else [])]
        expected.reasons[_place("all.jsonl", lines, 2 if number < len(good) else 1)] = reason
        if number < len(good):
            expected.texts[_place("all.jsonl", lines)] = good[number]
    for line, text in held:
        lines += [line.encode(), b"", b" \t\r"]
        expected.texts[_place("all.jsonl", lines, 3)] = text
    for data in (b'{"text": "caf\xe9"}', b'{"text": "\xed\xa0\x80"}', '{"text": "sixteen"}'.encode("utf-16")):
        lines.append(data)
        # UTF-16 holds the byte of a line feed nowhere here; it is one line that does not decode.
        expected.reasons[_place("all.jsonl", lines)] = "not_utf8"
    (folder / "all.jsonl").write_bytes(b"\n".join(lines))
    _streams(folder, expected)
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "empty.jsonl.gz").write_bytes(b"")
    expected.reasons["empty.jsonl.gz#0"] = "truncated"
    (folder / "archive.jsonl.xz").write_bytes(b"\xfd7zXZ\0")
    expected.reasons["archive.jsonl.xz"] = "unsupported_compression"
    return [{"path": str(folder / "*"), "format": "jsonl", "metadata": ["language", "n"], "quality": "score"}], expected


def _place(name: str, lines: list[bytes], back: int = 1) -> str:
    """Where the line that is `back` from the end begins."""
    return f"{name}#{sum(len(line) + 1 for line in lines[:-back])}"


def _streams(folder: Path, expected: Expected) -> None:
    """Compressed streams that end early, are corrupt, or are no such thing."""
    for number, (ending, pack) in enumerate({"gz": gzip.compress, "zst": zstandard.compress}.items()):
        texts = neighbours(3300 + 100 * number, 3)
        lines = [json.dumps({"text": text}).encode() + b"\n" for text in texts]
        begun = b"".join(pack(line) for line in lines)  # a member, or frame, a line
        whole = len(begun)
        last = len(pack(lines[-1]))
        name = f"cut.jsonl.{ending}"
        (folder / name).write_bytes(begun[: whole - last // 2])
        at = 0
        for line, text in zip(lines[:-1], texts[:-1], strict=True):
            expected.texts[f"{name}#{at}"] = text
            at += len(line)
        expected.reasons[f"{name}#{at}"] = "truncated"
        name = f"damaged.jsonl.{ending}"
        line = json.dumps({"text": plain(3500 + number)}).encode() + b"\n"
        (folder / name).write_bytes(pack(line) + b"this is no member")
        expected.texts[f"{name}#0"] = plain(3500 + number)
        expected.reasons[f"{name}#{len(line)}"] = "corrupt"
        (folder / f"text.jsonl.{ending}").write_bytes(line)
        expected.reasons[f"text.jsonl.{ending}#0"] = "corrupt"


def parquet(folder: Path) -> Made:
    """Parquet: one good file, others that are cut, corrupt, or of another shape."""
    folder.mkdir(parents=True)
    expected = Expected()
    good = neighbours(4000)
    table = pa.table({"text": good})
    pq.write_table(table, folder / "good.parquet", row_group_size=5)
    expected.texts |= {f"good.parquet#{row}": text for row, text in enumerate(good)}
    data = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])
    (folder / "text.parquet").write_bytes(b"this is no Parquet file\n" * 10)
    (folder / "empty.parquet").write_bytes(b"")
    expected.reasons |= {"cut.parquet": "truncated", "text.parquet": "corrupt", "empty.parquet": "corrupt"}
    pq.write_table(pa.table({"content\x1b[31m": good}), folder / "no_column.parquet")
    pq.write_table(pa.table({"text": [1, 2, 3]}), folder / "numbers.parquet")
    expected.reasons |= {"no_column.parquet": "missing_text", "numbers.parquet": "not_text"}
    values = pa.array([plain(4100).encode(), b"caf\xe9", None, b"a\0b" + plain(4101).encode(), b""], pa.binary())
    pq.write_table(pa.table({"text": values}), folder / "bytes.parquet")
    expected.texts["bytes.parquet#0"] = plain(4100)
    expected.reasons |= {
        "bytes.parquet#1": "not_utf8",
        "bytes.parquet#2": "missing_text",
        "bytes.parquet#3": "binary",
        "bytes.parquet#4": "empty",
    }
    offsets = pa.array([0, 4], pa.int32()).buffers()[1]
    unchecked = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe\xfd!")])
    pq.write_table(pa.table({"text": unchecked}), folder / "unchecked.parquet")
    expected.reasons["unchecked.parquet#0"] = "not_utf8"
    return [{"path": str(folder), "format": "parquet"}], expected


def tar(folder: Path) -> Made:
    """Tar: members that lead out of the archive, links, devices, and archives that break."""
    folder.mkdir(parents=True)
    expected = Expected()
    good = neighbours(5000)
    reasons = {
        "../../etc/escape": "unsafe_path",
        "/etc/absolute": "unsafe_path",
        "a/../../b": "unsafe_path",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number, text in enumerate(good):
            _add(archive, f"src/good{number}.py", text.encode())
            expected.texts[f"members.tar#src/good{number}.py"] = text
        for name, reason in reasons.items():
            _add(archive, name, plain(5100).encode())
            expected.reasons[f"members.tar#{name}"] = reason
        for name, kind, target in (
            ("link", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard", tarfile.LNKTYPE, "../../etc/passwd"),
            ("device", tarfile.CHRTYPE, ""),
            ("fifo", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
            expected.reasons[f"members.tar#{name}"] = "not_a_regular_file"
        odd = {b"caf\xe9": 5200, b"esc\x1b[31m\n": 5201, b"l" * 3000: 5202}
        for raw, seed in odd.items():
            _add(archive, raw.decode("utf-8", "surrogateescape"), plain(seed).encode())
            expected.texts[f"members.tar#{quote(raw)}"] = plain(seed)
    whole = buffer.getvalue()
    (folder / "members.tar").write_bytes(whole)
    _broken_archives(folder, expected)
    return [{"path": str(folder), "format": "tar"}], expected


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _broken_archives(folder: Path, expected: Expected) -> None:
    buffer = io.BytesIO()
    texts = neighbours(5300, 2)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number, text in enumerate(texts):
            _add(archive, f"m{number}.py", text.encode())
    whole = buffer.getvalue()
    second = 512 + -(-len(texts[0].encode()) // 512) * 512
    (folder / "cut.tar").write_bytes(whole[: second + 700])
    expected.texts["cut.tar#m0.py"] = texts[0]
    expected.reasons[f"cut.tar#{second}"] = "truncated"
    (folder / "text.tar").write_bytes(b"this is no archive\n" * 100)
    (folder / "empty.tar").write_bytes(b"")
    (folder / "text.tar.gz").write_bytes(b"this is no gzip stream")
    expected.reasons |= {"text.tar#0": "corrupt", "empty.tar#0": "truncated", "text.tar.gz#0": "corrupt"}

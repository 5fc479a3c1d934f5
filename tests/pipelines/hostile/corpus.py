"""A corpus of everything a crawl may hold: each input beside the reason it must be rejected for, or the text it is.

Three quarters of it is nothing but trouble; between lie documents with nothing wrong.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from pipelines.sources.paths import quote
from tests.pipelines.hostile.cases import SPELLED, Expected, Made, plain
from tests.pipelines.hostile.containers import jsonl, parquet, tar
from tests.pipelines.hostile.runs import neighbours

BODY = "\n".join(neighbours(9000, 1))


def code(folder: Path) -> Made:
    """A source tree."""
    folder.mkdir(parents=True)
    expected = Expected()
    good = neighbours(1000)
    for number, text in enumerate(good):
        (folder / f"good{number}.py").write_text(text)
        expected.texts[f"good{number}.py"] = text
    bodies: dict[str, tuple[bytes, str]] = {
        "elf": (b"\x7fELF\x02\x01\x01\0\0\0" + bytes(range(256)) * 40, "binary"),
        "picture.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(500), "binary"),
        "early_nul.py": (b"x = 1\n" * 100 + b"\0" + plain(2000).encode(), "binary"),
        "latin1.py": (b"# caf\xe9 au lait\n" + plain(2001).encode(), "not_utf8"),
        "late_latin1.py": (plain(2002).encode() * 20 + b"\xfcber", "not_utf8"),
        "utf16.py": (plain(2003).encode("utf-16"), "binary"),
        "utf16_no_mark.py": (plain(2004).encode("utf-16-le"), "binary"),
        "utf16_chinese.py": (("\u4e2d\u6587" * 500).encode("utf-16-be"), "not_utf8"),
        "cesu8.py": (plain(2005).encode() + b"\xed\xa0\xbd\xed\xb8\x80", "not_utf8"),
        "overlong.py": (plain(2006).encode() + b"\xc0\xaf", "not_utf8"),
        "empty.py": (b"", "empty"),
        "blank.py": (b"\xef\xbb\xbf\n \t\n\r\n", "empty"),
    }
    for name, (data, reason) in bodies.items():
        (folder / name).write_bytes(data)
        expected.reasons[name] = reason
    late_nul = BODY + "\n" + "y = 2\n" * 2000 + "\0 a NUL that lies late\x1b[31m"
    for name, text in {
        "late_nul.py": late_nul,
        "specials.py": "".join(f"{name} x{name}y\n" for name in SPELLED) + plain(2007),
        "bidi.py": plain(2008) + "\u202e\u2066 reversed",
        "one_line.py": plain(2009).replace("\n", " "),
    }.items():
        (folder / name).write_text(text)
        expected.texts[name] = text.rstrip()
    _names(folder, expected)
    _things(folder, expected)
    labelled = folder.parent / "labelled.jsonl"
    labelled.write_text(json.dumps({"text": plain(2010), "language": "\x1b[31mred\u202e\n"}))
    expected.texts["labelled.jsonl#0"] = plain(2010)
    return [
        {"path": str(folder), "format": "files"},
        {"path": str(labelled), "format": "jsonl", "metadata": ["language"]},
    ], expected


def _names(folder: Path, expected: Expected) -> None:
    """Files whose names are the trouble."""
    names = [
        b"caf\xe9.py",
        b"new\nline.py",
        b"carriage\rreturn.py",
        b"\x1b[2J\x1b]0;title\x07.py",
        "c1\x9b31m.py".encode(),
        "\u202egnp.py".encode(),
        b"back\\slash\\x41.py",
        b"n" * 252 + b".py",
        b"/".join([b"d" * 200] * 12) + b"/deep.py",
        b"hash#7.py",
        b"-rf",
        b" ",
        "\U0001f468\u200d\U0001f469.py".encode(),
    ]
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        text = plain(2100 + number)
        with open(path, "wb") as file:
            file.write(text.encode())
        expected.texts[quote(name)] = text


def _things(folder: Path, expected: Expected) -> None:
    """What is no file."""
    (folder / "loop").symlink_to(".")
    (folder / "itself.py").symlink_to("itself.py")
    (folder / "nowhere.py").symlink_to("nowhere")
    (folder / "zero.py").symlink_to("/dev/zero")
    (folder / "passwd.py").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo.py")
    # A socket's path may have 108 bytes at most, so it is bound by its name alone.
    here = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket.py")
    finally:
        os.chdir(here)
    expected.reasons |= {
        "loop": "linked_folder",
        "itself.py": "unreadable",
        "nowhere.py": "unreadable",
        "zero.py": "special_file",
        "passwd.py": "link_outside_root",
        "fifo.py": "special_file",
        "socket.py": "special_file",
    }
    if os.geteuid() == 0:
        try:
            os.mknod(folder / "null.py", 0o600 | 0o020000, os.makedev(1, 3))
        except PermissionError:  # a container may forbid it even to root
            return
        expected.reasons["null.py"] = "special_file"


def write(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Expected]]:
    """The whole corpus below `folder`: sources and what is expected of them, by component."""
    made = {make.__name__: make(folder / make.__name__) for make in (code, jsonl, parquet, tar)}
    return {name: sources for name, (sources, _) in made.items()}, {name: each for name, (_, each) in made.items()}

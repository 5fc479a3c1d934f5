"""Real documents with planted copies and edits, for measuring deduplication. Everything follows from one seed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WHOLE = (1_000, 20_000)  # bytes of a file taken as it is
PIECE = 4_000  # characters a longer file is cut to, at line ends
COPIES = 0.05  # exact copies, as a share of the real documents
EDITS_OF_EDITS = 0.15  # of the edited documents, how many are made from an edited one
CHANGES = (0.005, 0.4)  # wanted 1 - J of an edited document and what it was made from, drawn evenly

LICENCES = (
    """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: the above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software.""",
    """Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met: redistributions of source code must retain the above copyright notice, this list of
conditions and the following disclaimer. Redistributions in binary form must reproduce the above copyright notice, this
list of conditions and the following disclaimer in the documentation and/or other materials provided.""",
    """Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance
with the License. Unless required by applicable law or agreed to in writing, software distributed under the License is
distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
License for the specific language governing permissions and limitations under the License.""",
)

_WORD = re.compile(r"\w+")
_IDENTIFIER = re.compile(r"\b[A-Za-z_]\w{3,}\b")
_COMMENT = re.compile(r"\s*(#|//|/\*|\*|$)")


@dataclass(frozen=True)
class Document:
    """name: unique; kind: `real`, `copy`, or the edit that made it; parent: name of what it was made from."""

    name: str
    text: str
    kind: str = "real"
    parent: str = ""


Edit = Callable[[str, float, random.Random, Sequence[str]], str]


def corpus(roots: Sequence[Path], count: int, seed: int) -> list[Document]:
    """`count` real documents, the same number from each root, and as many edited ones, and copies, shuffled.

    The standard library of the running Python is always the first root.

    Raises:
        ValueError: the roots hold fewer documents than that.
    """
    chance = random.Random(seed)
    real = _real([Path(sysconfig.get_path("stdlib")), *roots], count, seed)
    documents = list(real)
    vocabulary = sorted({word for document in real[::20] for word in _WORD.findall(document.text)})
    edited: list[Document] = []
    for i in range(count):
        parent = chance.choice(edited if edited and chance.random() < EDITS_OF_EDITS else real)
        kind = chance.choice(sorted(EDITS))
        other = chance.choice(real).text.splitlines()
        material = vocabulary if kind in {"words", "rename"} else other
        text = EDITS[kind](parent.text, chance.uniform(*CHANGES), chance, material)
        edited.append(Document(f"edit-{i}", text, kind, parent.name))
    documents += edited
    for i, parent in enumerate(chance.sample(documents, round(COPIES * count))):
        documents.append(Document(f"copy-{i}", parent.text, "copy", parent.name))
    chance.shuffle(documents)
    return documents


def _real(roots: Sequence[Path], count: int, seed: int) -> list[Document]:
    """An equal number of documents from each root."""
    taken: list[Document] = []
    for number, root in enumerate(roots):
        wanted = (count - len(taken)) // (len(roots) - number)
        found = itertools.islice(_documents(root, "*" if number else "*.py", seed), wanted)
        taken += [Document(f"{number}/{name}", text) for name, text in found]
    if len(taken) < count:
        raise ValueError(f"only {len(taken)} of {count} documents in {', '.join(map(str, roots))}: add a --corpus")
    return taken


def _documents(root: Path, pattern: str, seed: int) -> Iterator[tuple[str, str]]:
    """Names and texts: files of moderate size, then the first pieces of all longer ones, their second pieces, ….

    Files come in the order of a hash of their names. So a folder of much alike or one huge file does not prevail.
    """
    sizes = {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in root.rglob(pattern)
        if path.is_file() and not path.is_symlink() and "site-packages" not in path.parts
    }
    names = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    for name in names:
        if WHOLE[0] <= sizes[name] <= WHOLE[1]:
            yield from ((name, text) for text in _text(root / name))
    long = [(name, _pieces(text)) for name in names if sizes[name] > WHOLE[1] for text in _text(root / name)]
    for number in itertools.count():
        piece = [(f"{name}/{number}", pieces[number]) for name, pieces in long if number < len(pieces)]
        if not piece:
            return
        yield from piece


def _text(path: Path) -> Iterator[str]:
    """The file's text if it is UTF-8 without NUL, else nothing."""
    with contextlib.suppress(UnicodeDecodeError):
        text = path.read_text(encoding="utf-8")
        if "\0" not in text:
            yield text


def _pieces(text: str) -> list[str]:
    """The text cut at line ends to pieces of `PIECE` characters and the rest of a line; what is left over is left."""
    pieces: list[str] = []
    piece: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= PIECE:
            pieces.append("".join(piece))
            piece, size = [], 0
    return pieces


# -- edits: (text, wanted 1 - J, chance, words or lines to insert) -> text ----------------------------------------


def _words(text: str, change: float, chance: random.Random, vocabulary: Sequence[str]) -> str:
    """Words replaced by others, each with probability p: a share s = (1 - p)^5 of shingles stays, J = s / (2 - s)."""
    similarity = 1 - change
    rate = 1 - (2 * similarity / (1 + similarity)) ** 0.2
    return _WORD.sub(lambda word: chance.choice(vocabulary) if chance.random() < rate else word[0], text)


def _delete_lines(text: str, change: float, chance: random.Random, _: Sequence[str]) -> str:
    """Single lines taken out all over the document. A shingle is lost with any line it touches, so fewer lines go."""
    rate = change / 1.6
    return "".join(line for line in text.splitlines(keepends=True) if chance.random() >= rate)


def _delete_block(text: str, change: float, chance: random.Random, _: Sequence[str]) -> str:
    """Lines in a row taken out."""
    lines = text.splitlines(keepends=True)
    count = round(change * len(lines))
    at = chance.randint(0, len(lines) - count)
    return "".join(lines[:at] + lines[at + count :])


def _insert_lines(text: str, change: float, chance: random.Random, other: Sequence[str]) -> str:
    """Single lines of another document put in all over."""
    rate = change / 1.6
    lines = text.splitlines()
    return "\n".join(
        part for line in lines for part in ([chance.choice(other), line] if chance.random() < rate else [line])
    )


def _insert_block(text: str, change: float, chance: random.Random, other: Sequence[str]) -> str:
    """Lines in a row of another document put in at one place."""
    lines = text.splitlines()
    count = min(len(other), round(change / (1 - change) * len(lines)))
    start = chance.randint(0, len(other) - count)
    at = chance.randint(0, len(lines))
    return "\n".join([*lines[:at], *other[start : start + count], *lines[at:]])


def _rename(text: str, change: float, chance: random.Random, vocabulary: Sequence[str]) -> str:
    """Identifiers renamed wherever they stand, one after another, until enough places have changed."""
    places: dict[str, int] = {}
    for word in _IDENTIFIER.findall(text):
        places[word] = places.get(word, 0) + 1
    names = sorted(places)
    chance.shuffle(names)
    left = change / 8 * sum(1 for _ in _WORD.finditer(text))
    renamed: dict[str, str] = {}
    for name in names:
        if places[name] <= left + 1:
            renamed[name] = chance.choice(vocabulary)
            left -= places[name]
        if left <= 0:
            break
    return _IDENTIFIER.sub(lambda word: renamed.get(word[0], word[0]), text)


def _licence(text: str, _: float, chance: random.Random, __: Sequence[str]) -> str:
    """The comment at the head replaced by another licence."""
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if not _COMMENT.match(line)), 0)
    return "\n".join([*("# " + line for line in chance.choice(LICENCES).splitlines()), *lines[head:]])


def _punctuation(text: str, change: float, chance: random.Random, _: Sequence[str]) -> str:
    """Other white space and quotes; every token and so every shingle stays, and the bytes differ."""
    text = text.replace("'", '"') if chance.random() < 0.5 else text
    return re.sub(r"[ ]+", lambda run: run[0] + " " if chance.random() < change else run[0], text) + "\n."


EDITS: dict[str, Edit] = {
    "words": _words,
    "delete_lines": _delete_lines,
    "delete_block": _delete_block,
    "insert_lines": _insert_lines,
    "insert_block": _insert_block,
    "rename": _rename,
    "licence": _licence,
    "punctuation": _punctuation,
}

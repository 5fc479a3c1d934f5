"""Texts in which there is something to retrieve: real lines of code, and among them pass keys, said and said again.

    python benchmarks/needles.py FOLDER [--documents 1200] [--characters 30000]

A document is lines from the running Python's own tests (which configs/context.yaml uses nowhere else), with sentences
between them such as "The pass key is amber copper forest." It is made of parts, whose lengths are drawn evenly by
their logarithm. A part has keys of its own, no two with the same first word, and says each again and again: whoever
predicts the rest of a key must find an earlier sentence that begins with its first word, at any distance the part has
room for. Files are the same for the same arguments and Python.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

from trainer.evaluation.needle import SENTENCE, WORDS

NEAR, FAR = (10, 300), (300, 6000)
"""Characters of code between two sentences, on average over a part: least and most."""


def document(lines: list[list[str]], characters: int, seed: int) -> str:
    """One text of about so many characters, of parts with keys of their own; lines: of each file to draw from.

    In three of four texts sentences are near each other: so a model learns sooner to look up at all.
    """
    chosen = random.Random(seed)
    least, most = NEAR if chosen.random() < 0.75 else FAR
    parts: list[str] = []
    left = characters
    while left > 0:
        found = list(part(chosen, lines, least * (most / least) ** chosen.random()))
        parts += found
        left -= sum(map(len, found))
    return "".join(parts)


def part(chosen: random.Random, lines: list[list[str]], gap: float) -> Iterator[str]:
    """Sentences with one to three keys, no two with the same first word, after 0 to 2 gap characters of code each."""
    words = chosen.sample(WORDS, chosen.choice([1, 1, 1, 2, 2, 3]))
    keys = [(word, *chosen.sample(WORDS, 2)) for word in words]
    for _ in range(chosen.randint(2, 8)):
        yield from code(chosen, lines, chosen.uniform(0, 2) * gap)
        yield SENTENCE.format(*chosen.choice(keys))


def code(chosen: random.Random, lines: list[list[str]], characters: float) -> Iterator[str]:
    """Runs of up to six lines, about so many characters."""
    while characters > 0:
        file = chosen.choice(lines)
        begin = chosen.randrange(len(file))
        run = "".join(file[begin : begin + chosen.randint(1, 6)])[: max(40, int(characters))].rstrip() + "\n"
        yield run
        characters -= len(run)


def texts() -> Iterator[list[str]]:
    """Lines of each file of the library's own tests that is UTF-8."""
    for path in sorted(Path(sysconfig.get_path("stdlib"), "test").glob("*.py")):
        try:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
        except UnicodeDecodeError:
            continue
        if lines:
            yield lines


def write(folder: Path, documents: int, characters: int) -> None:
    """Write the documents, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = list(texts())
    for number in range(documents):
        text = document(lines, characters, number)
        (folder / f"{number:05}.txt").write_text(text, encoding="utf-8")


def main() -> None:
    """As the module's docstring says."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--documents", type=int, default=1200)
    options.add_argument("--characters", type=int, default=30_000)
    chosen = options.parse_args()
    write(chosen.folder, chosen.documents, chosen.characters)


if __name__ == "__main__":
    main()

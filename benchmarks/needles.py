"""Texts in which there is something to retrieve: real lines of code, and among them pass keys, said and said again.

    python benchmarks/needles.py FOLDER [--documents 600] [--characters 30000]

A document is runs of lines from the running Python's own tests (which configs/context.yaml uses nowhere else), with
sentences between them such as "The pass key of amber is 4821." Each name is said again from time to time, with the same
key, after distances drawn evenly by their logarithm, so that a piece of any length holds pairs at all distances it has
room for; whoever predicts the key of a later sentence must find the earlier one. Files are the same for the same
arguments and Python. Names that `trainer.evaluation.needle` asks for are never used here.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

from trainer.evaluation.needle import KEYS, SENTENCE, TRAINING_NAMES


def document(lines: list[list[str]], characters: int, seed: int) -> str:
    """One text of about so many characters; lines: of each file to draw from."""
    chosen = random.Random(seed)
    share = chosen.uniform(0.5, 0.95)  # of the text that sentences take
    names = chosen.sample(TRAINING_NAMES, round(3 * (len(TRAINING_NAMES) / 3) ** chosen.random()))
    keys = {name: f"{chosen.randrange(KEYS):04}" for name in names}
    due: list[tuple[float, str]] = []  # when a name is said again
    parts: list[str] = []
    size = said = 0
    while size < characters:
        if said <= share * size:
            due.sort()
            name = due.pop(0)[1] if due and due[0][0] <= size else chosen.choice(names)
            due.append((size + 60 * (characters / 60) ** chosen.random(), name))
            part = SENTENCE.format(name=name, key=keys[name])
            said += len(part)
        else:
            file = chosen.choice(lines)
            begin = chosen.randrange(len(file))
            part = "".join(file[begin : begin + chosen.randint(1, 6)])[:400].rstrip() + "\n"
        parts.append(part)
        size += len(part)
    return "".join(parts)


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
    options.add_argument("--documents", type=int, default=600)
    options.add_argument("--characters", type=int, default=30_000)
    chosen = options.parse_args()
    write(chosen.folder, chosen.documents, chosen.characters)


if __name__ == "__main__":
    main()

"""Texts in which there is something to retrieve: pass keys of three words, said and said again.

    python benchmarks/needles.py FOLDER [--gap 10 2000 | --bare] [--keys 1 2 4 8 16] [--distinct]

A document is lines of code from the running Python's own tests (which the configs of the trial use nowhere else), with
sentences between them such as "The pass key is amber copper forest." The code between two sentences is 0 to twice the
document's gap long, which is drawn evenly by its logarithm. A document has keys of its own, so whoever predicts the
rest of one must find an earlier sentence that begins with its first word. With --bare there is no sentence, only
keys, and now and then a name from the code between two of them: two words of three can be found in what was said
before, so that it is soon worth while to learn how. Files are the same for the same arguments and Python.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

from trainer.quiet import without_import_noise

with without_import_noise():
    from trainer.evaluation.needle import SENTENCE, WORDS


def document(texts: Iterator[str], characters: int) -> str:
    """Their first ones, about so many characters."""
    parts: list[str] = []
    while characters > 0:
        parts.append(next(texts))
        characters -= len(parts[-1])
    return "".join(parts)


def keys(chosen: random.Random, count: int, distinct: bool) -> list[tuple[str, str, str]]:
    """So many keys with different first words, which are in no other place unless all words are first ones.

    distinct: no two have a word in common, so that each word says what comes next.
    """
    if distinct:
        words = iter(chosen.sample(WORDS, 3 * count))
        return list(zip(words, words, words, strict=True))
    firsts = chosen.sample(WORDS, count)
    rest = [word for word in WORDS if word not in firsts] or WORDS
    return [(first, *chosen.sample(rest, 2)) for first in firsts]


def said(
    chosen: random.Random, lines: list[list[str]], gap: tuple[int, int], count: int, distinct: bool
) -> Iterator[str]:
    """Sentences with one of `count` keys, and code before each: the more keys, the farther back is the same."""
    mine = keys(chosen, count, distinct)
    mean = gap[0] * (gap[1] / gap[0]) ** chosen.random()
    while True:
        yield from code(chosen, lines, chosen.uniform(0, 2) * mean)
        yield SENTENCE.format(*chosen.choice(mine))


def bare(chosen: random.Random, lines: list[list[str]]) -> Iterator[str]:
    """Two to five keys, 80 times one of them, every fifth time with a name from the code after it; and others."""
    while True:
        mine = keys(chosen, chosen.randint(2, 5), distinct=False)
        for _ in range(80):
            yield " " + " ".join(chosen.choice(mine))
            names = re.findall(r"\w{1,8}", chosen.choice(chosen.choice(lines)))
            if names and chosen.random() < 0.2:
                yield " " + chosen.choice(names)
        yield "\n"


def code(chosen: random.Random, lines: list[list[str]], characters: float) -> Iterator[str]:
    """Runs of up to six lines, about so many characters."""
    while characters > 0:
        file = chosen.choice(lines)
        begin = chosen.randrange(len(file))
        run = "".join(file[begin : begin + chosen.randint(1, 6)])[: max(40, int(characters))].rstrip() + "\n"
        yield run
        characters -= len(run)


def sources() -> Iterator[list[str]]:
    """Lines of each file of the library's own tests that is UTF-8."""
    for path in sorted(Path(sysconfig.get_path("stdlib"), "test").glob("*.py")):
        try:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.strip()]
        except UnicodeDecodeError:
            continue
        if lines:
            yield lines


def main() -> None:
    """As the module's docstring says."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    kind = options.add_mutually_exclusive_group()
    kind.add_argument("--bare", action="store_true", help="keys alone")
    kind.add_argument(
        "--gap", type=int, nargs=2, default=[10, 2000], metavar=("LEAST", "MOST"), help="characters of code, on average"
    )
    options.add_argument(
        "--keys", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N", help="a document has one of so many keys"
    )
    options.add_argument("--documents", type=int, default=1200)
    options.add_argument("--characters", type=int, default=30_000)
    options.add_argument("--distinct", action="store_true", help="a document's keys, five at most, share no word")
    chosen = options.parse_args()
    most = len(WORDS) // 3 if chosen.distinct else len(WORDS)
    if not 1 <= min(chosen.keys) <= max(chosen.keys) <= most:
        options.error(f"--keys: there are words for 1 to {most}")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    lines = list(sources())
    for number in range(chosen.documents):
        draws = random.Random(number)
        if chosen.bare:
            texts = bare(draws, lines)
        else:
            texts = said(draws, lines, tuple(chosen.gap), draws.choice(chosen.keys), chosen.distinct)
        text = document(texts, chosen.characters)
        (chosen.folder / f"{number:05}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

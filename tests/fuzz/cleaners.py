"""Targets: both cleaners, against plain readings of what they promise."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from hypothesis import strategies as st

from pipelines.cleaning import clean_code, clean_natural_language
from tests.fuzz.target import Target
from tests.fuzz.texts import LONG_TEXTS, TEXTS


def plain_code(text: str) -> str:
    """Newlines, trailing white space, blank ends and marks at the start; nothing else."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip(" \t\v\f") for line in lines).lstrip("\n\ufeff").rstrip("\n")


def plain_prose(text: str) -> str:
    """A character at a time."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    text = re.sub("[\v\f\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    text = "".join(c for c in text if c == "\n" or unicodedata.category(c) != "Cc")
    lines = unicodedata.normalize("NFC", text).split("\n")
    text = "\n".join(re.sub(" +", " ", line).rstrip() for line in lines)
    return re.sub("\n{3,}", "\n\n", text.lstrip("\n\ufeff").rstrip("\n"))


def _decoded(text: str) -> str:
    """What decoding a file as UTF-8 leaves of a text: nothing is lost but lone surrogates, which never get here."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def code_law(text: str, strict: bool) -> None:
    """Code keeps every character but white space at line ends, newlines at the ends and marks at the start."""
    text = _decoded(text) if strict else text
    once = clean_code(text)
    assert once == plain_code(text)
    assert clean_code(once) == once == clean_code(text)
    if strict:
        once.encode("utf-8")


def prose_law(text: str, strict: bool) -> None:
    """Prose is in NFC, without controls, with single spaces and at most one blank line; letters stay."""
    text = _decoded(text) if strict else text
    once = clean_natural_language(text)
    assert once == plain_prose(text)
    assert clean_natural_language(once) == once
    assert unicodedata.is_normalized("NFC", once)
    kept = [unicodedata.normalize("NFD", value) for value in (text, once)]
    letters = [[c for c in value if unicodedata.category(c)[0] in "LNPS"] for value in kept]
    assert letters[0] == letters[1]
    if strict:
        once.encode("utf-8")


_ARGUMENTS: Final = {"text": st.one_of(TEXTS, TEXTS, TEXTS, LONG_TEXTS), "strict": st.booleans()}
TARGETS: Final = [Target("code", code_law, _ARGUMENTS), Target("prose", prose_law, _ARGUMENTS)]

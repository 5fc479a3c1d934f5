"""Cleaning of decoded text. Both functions are idempotent and remove a byte order mark at the start.

Code keeps every character but trailing white space and blank ends: indentation is sacred. Natural language is
put into one spelling (NFC, no control characters, single spaces) and keeps its lines and paragraphs.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.canonical import nfc

_CODE_TRAILING: Final = " \t\v\f"
_BREAKS: Final = "\v\f\x1c\x1d\x1e"
_CONTROLS: Final = "".join(chr(i) for i in (*range(0x20), 0x7F) if chr(i) not in f"\t\n{_BREAKS}")

# On UTF-8: tabs to spaces; vertical tabs, form feeds and the like to newlines; other controls out.
_BYTES: Final = bytes(0x20 if i == 0x09 else 0x0A if i < 128 and chr(i) in _BREAKS else i for i in range(256))
_DELETED: Final = _CONTROLS.encode()
_WIDE_BREAK: Final = re.compile("[\x85\u2028\u2029]")
_WIDE_CONTROL: Final = re.compile("[\x80-\x84\x86-\x9f]+")
_BLANK_LINES: Final = re.compile("\n{3,}")


def clean_code(text: str) -> str:
    """Line ends as `\\n`, no white space (space, tab, vertical tab, form feed) before them, no blank ends."""
    text = _strip_line_ends(_normalise_newlines(text))
    return text.lstrip("\n\ufeff").rstrip("\n")


def clean_natural_language(text: str) -> str:
    """NFC, no controls, tabs and runs of spaces as one space, no white space at line ends, one blank line.

    Form feeds, vertical tabs, NEL and the Unicode line and paragraph separators become line ends. Spaces
    other than U+0020 are kept, save at the end of a line.
    """
    raw = _normalise_newlines(text).encode("utf-8", "surrogatepass").translate(_BYTES, _DELETED) + b"\n"
    ascii_only = raw.isascii()
    if not ascii_only:
        raw = _normalise_wide(raw)
    if b"  " in raw or b" \n" in raw:
        raw = _collapse_spaces(np.frombuffer(raw, dtype=np.uint8))
    text = raw.decode("utf-8", "surrogatepass")
    if not ascii_only and _wide_space_ends_a_line(np.frombuffer(raw, dtype=np.uint8)):
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    text = text.lstrip("\n\ufeff").rstrip("\n")
    return _BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text


def _normalise_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _normalise_wide(raw: bytes) -> bytes:
    """C1 controls out, line and paragraph separators to newlines, NFC."""
    data = np.frombuffer(raw, dtype=np.uint8)
    text = found = raw.decode("utf-8", "surrogatepass")
    if b"\xe2\x80\xa8" in raw or b"\xe2\x80\xa9" in raw or np.any((data[:-1] == 0xC2) & (data[1:] < 0xA0)):
        text = _WIDE_CONTROL.sub("", _WIDE_BREAK.sub("\n", text))
    text = nfc(text)
    return raw if text == found else text.encode("utf-8", "surrogatepass")


def _collapse_spaces(data: NDArray[np.uint8]) -> bytes:
    """UTF-8 without the spaces (U+0020) that a space or a newline follows."""
    keep = np.ones(len(data), dtype=np.bool_)
    following = data[1:]
    keep[:-1] = (data[:-1] != 0x20) | ((following != 0x20) & (following != 0x0A))
    return data[keep].tobytes()


def _wide_space_ends_a_line(data: NDArray[np.uint8]) -> bool:
    """Whether some line of UTF-8 may end in white space beyond ASCII; never wrongly False."""
    ends = np.flatnonzero((data[1:] == 0x0A) & (data[:-1] >= 0x80)) + 1
    no_break = (data[ends - 2] == 0xC2) & (data[ends - 1] == 0xA0)
    # U+1680, U+2000 to U+205F and U+3000 start with these two bytes.
    lead, second = data[ends - 3], data[ends - 2]
    other = ((lead == 0xE1) & (second == 0x9A)) | ((lead == 0xE2) & (second <= 0x81))
    return bool(np.any(no_break | other | ((lead == 0xE3) & (second == 0x80))))


def _strip_line_ends(text: str) -> str:
    """Each line without white space at its end.

    A regular expression would be quadratic on a long run of spaces that does not end its line.
    """
    if " \n" in text or "\t\n" in text or "\v" in text or "\f" in text:
        return "\n".join([line.rstrip(_CODE_TRAILING) for line in text.split("\n")])
    return text.rstrip(_CODE_TRAILING)

"""Text of unknown origin, made safe for a terminal."""

from __future__ import annotations

import unicodedata

OPEN, CLOSE = "\u27e6", "\u27e7"  # ⟦ and ⟧ enclose what is no text; text's own opening ones are escaped


def marked(name: str) -> str:
    """A special token as it is shown."""
    return f"{OPEN}{name}{CLOSE}"


def escaped(text: str, keep: str = "") -> str:
    r"""`text` with everything that could steer a terminal, or pass for a special token, as \xNN or \uNNNN.

    That is every character Unicode calls control, format, surrogate, private or unassigned, and line and paragraph
    separators: escape sequences and characters that turn the direction of writing are among them. keep: such
    characters that stay, as "\n\t".
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or _is_plain(c) else _escape(c) for c in text)


def _is_plain(c: str) -> bool:
    return c != OPEN and (c.isprintable() or unicodedata.category(c) == "Zs")


def _escape(c: str) -> str:
    value = ord(c)
    return f"\\x{value:02x}" if value < 0x100 else f"\\u{value:04x}" if value < 0x10000 else f"\\U{value:08x}"

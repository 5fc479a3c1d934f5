"""Targets: quoting of file names, and globs against a plain matcher."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from hypothesis import strategies as st

from pipelines.sources.paths import WILDCARD, folder_filter, matcher, quote, selector, split_glob, unquote
from schemas.errors import Refused
from tests.fuzz.target import Target
from tests.fuzz.texts import TEXTS

_OBEYED: Final = frozenset({"Cc", "Zl", "Zp", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Categories and directions of characters that a terminal acts on."""


def names_law(name: bytes) -> None:
    """A quoted name is text on one line that no terminal obeys, and leads back to the name."""
    quoted = quote(name)
    quoted.encode("utf-8")
    assert unquote(quoted) == name
    assert not any(unicodedata.category(c) in _OBEYED or unicodedata.bidirectional(c) in _OBEYED for c in quoted)


def plain_match(pattern: list[str], parts: list[str]) -> bool:
    """Whether path parts match the parts of a glob, by trying everything."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(parts)
        return any(plain_match(pattern[1:], parts[i:]) for i in range(len(parts) + 1))
    return bool(parts) and plain_part(pattern[0], parts[0]) and plain_match(pattern[1:], parts[1:])


def plain_part(pattern: str, part: str) -> bool:
    """Whether one part matches: `*`, `?` and `[...]` with ranges and `!`."""
    if not pattern:
        return not part
    if pattern[0] == "*":
        return any(plain_part(pattern[1:], part[i:]) for i in range(len(part) + 1))
    if pattern[0] == "[":
        close = pattern.find("]", 3 if pattern[1:2] == "!" else 2)
        if close > 0:
            inside = pattern[1:close].removeprefix("!")
            chosen = part[:1] and _in_class(inside, part[0]) != pattern[1:].startswith("!")
            return bool(chosen) and plain_part(pattern[close + 1 :], part[1:])
    return bool(part) and pattern[0] in ("?", part[0]) and plain_part(pattern[1:], part[1:])


def _in_class(inside: str, character: str) -> bool:
    at = 0
    while at < len(inside):
        if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside):
            if inside[at] <= character <= inside[at + 2]:
                return True
            at += 3
        else:
            if inside[at] == character:
                return True
            at += 1
    return False


def glob_law(pattern: str, exclude: list[str], path: str) -> None:
    """A glob matches what a plain matcher does or is refused; a walk stays out of no folder that holds a match."""
    try:
        matches = matcher([pattern])(path)
        excluded = selector(["**"], exclude)
    except Refused:
        assert re.search(r"\*\*|\[", "/".join([pattern, *exclude]))
        return
    parts = path.split("/")
    if all(parts):
        assert matches == plain_match(pattern.split("/"), parts)
    if matches and excluded(path):
        for depth in range(1, len(parts)):
            assert folder_filter(pattern, exclude)("/".join(parts[:depth]))
    if "//" not in "/" + pattern:
        root, rest = split_glob("/" + pattern)
        assert not WILDCARD.search(root)
        assert (root.rstrip("/") + "/" + rest if rest else root) == "/" + pattern


_GLOB: Final = st.lists(
    st.sampled_from([*"ab*?/[]!-^\\.|&~#", "**", "**/", "/**", "[!a]", "[a-b]", "[]]", "é", "\n"]), max_size=9
).map("".join)
_PATH: Final = st.one_of(st.lists(st.sampled_from([*"ab/-!]^.\\é", "\n"]), min_size=1, max_size=8).map("".join), TEXTS)
TARGETS: Final = [
    Target(
        "names", names_law, {"name": st.one_of(st.binary(), TEXTS.map(lambda t: t.encode("utf-8", "surrogatepass")))}
    ),
    Target("globs", glob_law, {"pattern": _GLOB, "exclude": st.lists(_GLOB, max_size=2), "path": _PATH}),
]

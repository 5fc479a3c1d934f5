r"""Names of inputs: quoting, globs, and the split of a source's path into a root and a pattern.

A file name is bytes and need not be UTF-8. `quote` writes it as text that any table can hold and any terminal
can show: bytes that do not decode become \xNN, and so do those of control characters, line separators and marks
that turn the direction of text; so does the backslash itself, which makes the form reversible.
Globs: `*`, `?` and `[...]` stay within one path part; `**` stands for any number of folders, none included.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from schemas.errors import Refused

WILDCARD = re.compile(r"[*?\[]")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def quote(name: bytes) -> str:
    r"""A name as valid UTF-8 text on one line: undecodable bytes, controls and backslashes as \xNN."""
    text = name.replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace")
    return _OBEYED.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode()), text)


def unquote(path: str) -> bytes:
    """The name `quote` was given."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), path.encode("utf-8"))


def is_remote(path: str) -> bool:
    """Whether a path names a filesystem by scheme, such as gs://."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def local_bytes(root: str, path: str = "") -> bytes:
    """The name the operating system knows a folder, or a quoted path below it, by, whatever the locale."""
    folder = root.encode("utf-8", "surrogateescape")
    return os.path.join(folder, unquote(path)) if path else folder


def split_glob(path: str) -> tuple[str, str]:
    """The longest folder prefix without wildcards, and the rest as a pattern below it ('' if none)."""
    found = WILDCARD.search(path)
    if found is None:
        return path, ""
    root, _, _ = path[: found.start()].rpartition("/")
    return root or "/", path[len(root) + 1 :]


def glob_regex(pattern: str) -> str:
    """A regular expression that fully matches what a glob stands for. Raises Refused on a malformed glob."""
    parts = pattern.split("/")
    regex = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            if parts[index - 1 : index] != ["**"] or last:
                regex += ".*" if last else "(?:.*/)?"
        elif "**" in part:
            raise Refused(f"{pattern}: ** stands alone between slashes, as in **/*.py")
        else:
            regex += _part_regex(part) + ("" if last else "/")
    try:
        re.compile(regex)
    except re.error as error:
        raise Refused(f"{pattern}: not a glob: {error}") from None
    return regex


def _part_regex(part: str) -> str:
    """A regular expression for one path part."""
    regex, at = "", 0
    while at < len(part):
        character = part[at]
        at += 1
        close = part.find("]", at + (2 if part[at : at + 1] == "!" else 1)) if character == "[" else -1
        if character == "*":
            regex += "[^/]*"
        elif character == "?":
            regex += "[^/]"
        elif close >= 0:
            inside = part[at:close].replace("\\", "\\\\")
            negated = inside.startswith("!")
            literal = re.sub(r"([\[^&~|])", r"\\\1", inside[negated:])
            regex += f"(?!/)[{'^' if negated else ''}{literal}]"
            at = close + 1
        else:
            regex += re.escape(character)
    return regex


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path matches any of the globs."""
    if "**" in patterns:
        return lambda path: True
    if not patterns:
        return lambda path: False
    regex = re.compile("|".join(f"(?:{glob_regex(pattern)})" for pattern in patterns), re.DOTALL)
    return lambda path: regex.fullmatch(path) is not None


def selector(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path matches a glob of `include` and none of `exclude`."""
    included, excluded = matcher(include), matcher(exclude)
    return lambda path: included(path) and not excluded(path)


def folder_filter(pattern: str, exclude: Sequence[str]) -> Callable[[str], bool]:
    """Whether a folder (path below the root) may hold files that match `pattern` and are not all excluded.

    Keeps a walk out of folders that cannot matter: those another branch than a fixed part of the pattern
    names, those deeper than the pattern, and those an exclude such as `**/.git/**` covers whole.
    """
    parts = pattern.split("/")
    crossing = "**" in parts
    fixed = parts[: parts.index("**")] if crossing else parts[:-1]
    regexes = [re.compile(_part_regex(part), re.DOTALL) for part in fixed]
    covered = matcher([glob for glob in exclude if glob.split("/")[-1] == "**"])

    def may_hold(folder: str) -> bool:
        names = folder.split("/")
        if covered(folder + "/") or (not crossing and len(names) > len(fixed)):
            return False
        return all(regex.fullmatch(name) for regex, name in zip(regexes, names, strict=False))

    return may_hold

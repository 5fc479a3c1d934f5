"""Markup that cannot be broken out of: whatever is not `Html` is escaped on its way into a page.

Documents are hostile input. Beside HTML's own characters, controls and marks that turn the direction of text are made
visible, so that a name or a line cannot hide or rearrange what stands around it.
"""

from __future__ import annotations

import html
import re

# Tab and newline stay, and so do the joiners that Persian, Indic scripts and emoji need.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb\ufffe\uffff]"
)
_PARTS = re.compile(r"[^/_#]*[/_#]|[^/_#]+")
_VOID = {"meta", "link", "br"}


class Html(str):
    """Finished markup. Joining it with other text gives plain text again, which is escaped."""

    __slots__ = ()


def escape(value: object) -> Html:
    """A value as text of a page or of an attribute."""
    shown = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], str(value))
    return Html(html.escape(shown, quote=True))


def join(*parts: object) -> Html:
    """Parts one after another: `Html` as it is, None left out, lists and tuples flattened, all else escaped."""
    return Html("".join(_flat(part) for part in parts))


def _flat(part: object) -> str:
    if part is None:
        return ""
    if isinstance(part, Html):
        return str(part)
    if isinstance(part, list | tuple):
        return "".join(map(_flat, part))
    return escape(part)


def breakable(value: str) -> Html:
    """A path or another long name, which may be broken after its separators."""
    return Html("<wbr>".join(escape(part) for part in _PARTS.findall(value)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. `class_` and the like lose their underscore, others become hyphens; None leaves an attribute out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{told}>" if name in _VOID else f"<{name}{told}>{join(*children)}</{name}>")


def clip(value: str, limit: int) -> str:
    """A text of at most `limit` characters: its middle is left out."""
    if len(value) <= limit:
        return value
    head = limit // 2
    return f"{value[:head]} … {value[len(value) - (limit - head - 3) :]}"


def number(value: float, digits: int = 3) -> str:
    """A number for reading: whole ones with thousands separated, others with `digits` significant digits."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def large(value: int) -> str:
    """A count in little room: billions are not written out."""
    return number(value) if value < 10**9 else f"{value / 1e9:,.2f} billion"


def percent(part: float, whole: float) -> str:
    """part / whole, such as 87 %, 24.9 %, 4.07 %; only nothing shows as 0 %, and only all as 100 %."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "< 0.01 %"
    if 99.95 < share < 100:
        return "> 99.9 %"
    digits = 0 if abs(share - round(share)) < 1e-9 else 2 if share < 9.995 else 1
    return f"{share:.{digits}f} %"


def size(count: float) -> str:
    """Bytes for reading."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"


def duration(seconds: float) -> str:
    """Seconds for reading."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"

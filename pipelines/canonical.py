"""Canonical composition (NFC) in linear time.

CPython orders combining marks by insertion sort: quadratic in the length of a run of them, hours for a file of
accents. Long runs are therefore put in order before it sees them; the result is the same, for NFC of canonically
equivalent texts is (Unicode Standard Annex 15).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

_POINTS: Final = 0x20000  # beyond the first two planes there are no combining marks
_LONG_RUN: Final = 256
_STRIDE: Final = 32


def nfc(text: str) -> str:
    """`text` in NFC; any string, lone surrogates included."""
    if _may_hold_long_run(text):
        text = _long_run().sub(lambda run: _in_order(run[0]), text)
    return unicodedata.normalize("NFC", text)


@cache
def _decompositions() -> dict[int, str]:
    """Code points whose canonical decomposition holds combining marks alone, and what that is."""
    points = (point for point in range(0x300, _POINTS) if not 0xAC00 <= point < 0xE000)  # no Hangul, no surrogates
    whole = ((point, unicodedata.normalize("NFD", chr(point))) for point in points)
    return {point: marks for point, marks in whole if all(map(unicodedata.combining, marks))}


@cache
def _classes() -> NDArray[np.uint8]:
    """[_POINTS]: the canonical combining class of each mark, 1 for one that decomposes, 0 for all else."""
    classes = np.zeros(_POINTS, dtype=np.uint8)
    for point in _decompositions():
        classes[point] = unicodedata.combining(chr(point)) or 1
    return classes


@cache
def _long_run() -> re.Pattern[str]:
    ranges = [[point for _, point in run] for _, run in groupby(enumerate(_decompositions()), lambda at: at[1] - at[0])]
    return re.compile(f"[{''.join(f'{chr(run[0])}-{chr(run[-1])}' for run in ranges)}]{{{_LONG_RUN},}}")


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _may_hold_long_run(text: str) -> bool:
    """Whether there may be a run of _LONG_RUN marks: looks at every 32nd character; never wrongly False."""
    least = _LONG_RUN // _STRIDE
    if len(text) < _LONG_RUN:
        return False
    other = np.flatnonzero(_classes()[np.minimum(_points(text[::_STRIDE]), _POINTS - 1)] == 0)
    samples = -(-len(text) // _STRIDE)
    return int(np.diff(other, prepend=-1, append=samples).max(initial=0)) > least


def _in_order(run: str) -> str:
    """Marks in canonical order: decomposed, then sorted by combining class, equals as they came."""
    points = _points(run.translate(_decompositions()))
    return points[np.argsort(_classes()[points], kind="stable")].tobytes().decode("utf-32-le")

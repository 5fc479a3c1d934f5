"""Many numbers in little memory, and the axis they are drawn on.

Numbers are counted by their value rounded to three significant digits: at most 900 counts a power of ten, exact for
whole numbers below 1,000 and fine enough for any picture. Which axis suits them is decided when all have been seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ZERO = -(1 << 40)  # the key of zero
_LEAST = 1e-9  # anything below counts as zero
_FAR = 1e12  # a bound beyond this is as good as none
_BARS = 50
_WHOLE = 20  # up to here, whole numbers have a bar each
_LINEAR = 60.0  # greatest number that a linear axis is drawn to


@dataclass
class Values:
    """Numbers >= 0, counted by their rounded value. Exact: `number`, `total`, `least`, `greatest`, `whole`.

    whole: whether all are integers.
    """

    counts: Counter[int] = field(default_factory=Counter)
    number: int = 0
    total: float = 0.0
    least: float = float("inf")
    greatest: float = float("-inf")
    whole: bool = True

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """Count numbers, [n]; those that are not finite are left out."""
        finite = np.asarray(values, np.float64)
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            return
        self.number += len(finite)
        self.total += float(finite.sum())
        self.least = min(self.least, float(finite.min()))
        self.greatest = max(self.greatest, float(finite.max()))
        self.whole = self.whole and bool((finite == np.floor(finite)).all())
        keys = np.full(len(finite), _ZERO, np.int64)
        some = finite >= _LEAST
        exponent = np.floor(np.log10(finite[some]))
        keys[some] = 10_000 * exponent.astype(np.int64) + np.rint(finite[some] / 10.0 ** (exponent - 2)).astype(
            np.int64
        )
        found, counts = np.unique(keys, return_counts=True)
        self.counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    def rounded(self) -> tuple[FloatArray, IntArray]:
        """The rounded values, ascending, and how many there are of each: [m], [m]."""
        pairs = sorted((_value(key), count) for key, count in self.counts.items())
        return np.array([value for value, _ in pairs]), np.array([count for _, count in pairs], np.int64)

    def quantile(self, share: float) -> float:
        """The least rounded value that `share` of the numbers do not exceed; NaN where there are none."""
        values, counts = self.rounded()
        if not len(values):
            return float("nan")
        at = np.searchsorted(np.cumsum(counts), share * self.number)
        return min(max(float(values[min(int(at), len(values) - 1)]), self.least), self.greatest)


def _value(key: int) -> float:
    if key == _ZERO:
        return 0.0
    exponent, digits = divmod(key, 10_000)
    return float(f"{digits}e{exponent - 2}")


Scale = Literal["whole", "linear", "log"]


@dataclass(frozen=True)
class Axis:
    """Bars side by side. edges: [bars + 1], ascending; a bar holds what is >= its left edge and < its right one.

    The last bar also holds its right edge. On a log axis that shows zeros, the first bar is theirs alone. A log axis
    has an edge at the first bound, so that no bar lies on both sides of it.
    """

    scale: Scale
    edges: tuple[float, ...]

    @property
    def bars(self) -> int:
        """How many there are."""
        return len(self.edges) - 1

    def heights(self, values: Values, least: float | None = None, greatest: float | None = None) -> IntArray:
        """How many of `values` each bar holds: [bars].

        least, greatest: what the values are known to lie between, though their rounding may not.
        """
        found, counts = values.rounded()
        edges = np.array(self.edges)
        at = np.clip(np.searchsorted(edges, found, side="right") - 1, 0, self.bars - 1)
        if self.scale != "whole":
            if least is not None:
                at = np.maximum(at, min(int(np.searchsorted(edges, least, side="right")), self.bars) - 1)
            if greatest is not None:
                at = np.minimum(at, max(int(np.searchsorted(edges, greatest)) - 1, 0))
        return np.bincount(at, counts, self.bars).astype(np.int64)

    def place(self, value: float) -> float:
        """Where a value lies, in bars from the left; a value outside is put on the border."""
        edges = np.array(self.edges)
        if self.scale == "log":
            edges = np.log10(np.maximum(edges, edges[1] / 10 if edges[0] == 0 else edges[0]))
            value = np.log10(value) if value > 0 else edges[0]
        return float(np.interp(value, edges, np.arange(len(edges))))

    def ticks(self) -> list[tuple[float, float]]:
        """Values to write below the axis, each with its place."""
        if self.scale == "log":
            marks = [(value, self.place(value)) for value in self._round_values()]
            # The zeros' own bar is narrow: its label needs the room of those near it.
            return [(0.0, 0.5), *(mark for mark in marks if mark[1] > 5)] if self.edges[0] == 0 else marks
        if self.scale == "whole":
            return [(float(n), n + 0.5) for n in range(0, self.bars, -(-self.bars // 6))]
        first, last = self.edges[0], self.edges[-1]
        step = _round_up((last - first) / 6)
        multiples = np.round(np.arange(np.ceil(first / step), np.floor(last / step) + 1) * step, 12)
        return [(value, self.place(value)) for value in multiples.tolist()]

    def _round_values(self) -> list[float]:
        """At most six powers of ten, or, where there are few, also 2 and 5 times these."""
        first, last = self.edges[1] if self.edges[0] == 0 else self.edges[0], self.edges[-1]
        low, high = int(np.floor(np.log10(first))), int(np.ceil(np.log10(last)))
        powers = [float(f"1e{power}") for power in range(low, high + 1)]
        inside = [value for value in powers if first <= value <= last]
        if len(inside) < 3:
            inside = [k * value for value in powers for k in (1, 2, 5) if first <= k * value <= last]
        return inside[:: -(-len(inside) // 6)] if inside else []

    def bound_place(self, bound: float, upper: bool) -> float:
        """Where the line of a bound is drawn: between the bars when each stands for a whole number."""
        if self.scale == "whole":
            return min(max(np.floor(bound) + 1 if upper else np.ceil(bound), 0.0), float(self.bars))
        if self.scale == "log" and bound <= 0:
            return 1.0 if upper and self.edges[0] == 0 else 0.0
        return self.place(bound)


def axis_for(values: Sequence[Values], bounds: Sequence[float] = ()) -> Axis:
    """The axis on which all of `values` and `bounds` lie: a bar a whole number, linear from zero, or logarithmic."""
    seen = [one for one in values if one.number]
    bounds = [bound if bound >= _LEAST else 0.0 for bound in bounds if bound <= _FAR]
    greatest = max([one.greatest for one in seen] + [*bounds, 0.0])
    if greatest <= _WHOLE and all(one.whole for one in seen) and all(bound == int(bound) for bound in bounds):
        return Axis("whole", tuple(float(n) for n in range(int(np.ceil(greatest)) + 2)))
    if greatest <= _LINEAR:
        top = _round_up(greatest if greatest >= _LEAST else 1.0)
        return Axis("linear", tuple(np.round(np.arange(_BARS + 1) * (top / _BARS), 12).tolist()))
    return _log_axis(seen, [bound for bound in bounds if bound > 0], greatest)


def similarity_axis(least: float, permutations: int) -> Axis:
    """An axis from `least` to 1 whose bars hold whole steps of an estimate, which is a share of `permutations`.

    Bars of any other width hold now one step and now two, and look like a comb.
    """
    steps = max(-(-int((1 - least) * permutations) // _BARS), 1)
    bars = int((1 - least) * permutations) // steps + 1
    edges = 1 + (0.5 - steps * np.arange(bars, -1, -1)) / permutations
    return Axis("linear", tuple(edges.tolist()))


def _round_up(value: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below `value`."""
    power = float(np.floor(np.log10(value)))
    steps = (float(f"{digits}e{int(power)}") for digits in ("1", "2", "2.5", "5", "10"))
    return next(step for step in steps if step >= value)


def _log_axis(seen: Sequence[Values], bounds: Sequence[float], greatest: float) -> Axis:
    rounded = [one.rounded()[0] for one in seen]
    positive = [float(found[found > 0][0]) for found in rounded if (found > 0).any()]
    greatest = max([greatest, *(float(found[-1]) for found in rounded)])  # a rounded value may lie above all exact ones
    least = min([*positive, *bounds])
    decades = np.log10(greatest / least)
    each = next((count for count in (20, 10, 5, 4, 2) if count * decades <= _BARS), 1)
    anchor = bounds[0] if bounds else 1.0
    low, high = np.floor(each * np.log10(least / anchor)), np.floor(each * np.log10(greatest / anchor)) + 1
    edges = (anchor * 10.0 ** (np.arange(low, high + 1) / each)).tolist()
    zero = any(bool((found == 0).any()) for found in rounded)
    return Axis("log", tuple([0.0, *edges] if zero else edges))

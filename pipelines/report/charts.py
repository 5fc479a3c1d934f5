"""Pictures as SVG that stands in the page: bars for table cells, and histograms.

Colours come from the page's style by class, so that they follow light, dark and print. A histogram is drawn 340 units
wide, about its width on a phone, so that its text is never shrunk there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.report.markup import Html, number, tag
from pipelines.report.values import Axis, IntArray
from schemas.config import Bounds

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 340, 40, 16, 16, 20
_PANEL = 84  # height of the longest bar
_SEEN = 0.004  # least length of a segment that is not nothing, as a share of the bar


def bar(segments: Sequence[tuple[float, str]], mark: float | None = None) -> Html:
    """A bar of a table cell: segments of [0, 1] one after another, each with its class; a line at `mark`.

    It says nothing that the numbers beside it do not, so it is hidden from screen readers.
    """
    at = 0.0
    drawn = []
    for length, kind in segments:
        width = min(max(length, 0.0), 1.0 - at)
        shown = max(width, _SEEN) if length > 0 else 0.0
        if shown:
            x = _n(1000 * min(at, 1 - shown))
            drawn.append(tag("rect", x=x, y=0, width=_n(1000 * shown), height=10, class_=kind))
        at += width
    line = tag("line", x1=_n(1000 * mark), x2=_n(1000 * mark), y1=0, y2=10, class_="mark") if mark is not None else None
    return tag("svg", drawn, line, class_="bar", viewBox="0 0 1000 10", preserveAspectRatio="none", aria_hidden="true")


@dataclass(frozen=True)
class Side:
    """One side of a histogram: how many each bar holds, [bars], and the class of the bars."""

    heights: IntArray
    kind: str


def histogram(
    axis: Axis, up: Side, down: Side | None, label: str, bounds: Bounds | None = None, log_counts: bool = False
) -> Html:
    """Bars upward and, of what was removed, downward in the same scale; a line at each bound.

    label: what the picture says, for those who do not see it. log_counts: a logarithmic scale of counts, so that a few
    documents can be seen beside very many.
    """
    below = int(down.heights.max(initial=0)) if down else 0
    scale = _Scale(max(int(up.heights.max(initial=0)), below, 1), log_counts)
    zero = _TOP + _PANEL
    bottom = zero + math.ceil(_PANEL * scale.height(below))
    step = (_WIDTH - _LEFT - _RIGHT) / axis.bars
    parts: list[object] = []
    for tick in scale.ticks():
        y = _n(zero - _PANEL * scale.height(tick))
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _short(tick), x=_LEFT - 4, y=_n(float(y) + 3.5), class_="end"))
    parts += _bars(up, step, zero, scale, -_PANEL)
    if down:
        parts += _bars(down, step, zero, scale, _PANEL)
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=zero, y2=zero, class_="axis"))
    for value, place in axis.ticks():
        x = _n(_LEFT + step * place)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", _short(value), x=x, y=bottom + 15, class_="middle"))
    if bounds is not None:
        parts += _bound_lines(axis, bounds, step, bottom)
    height = bottom + _BOTTOM
    return tag("svg", parts, class_="histogram", viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=label)


def _bars(side: Side, step: float, zero: float, scale: _Scale, reach: float) -> list[Html]:
    """Bars from the zero line, upward when `reach` is negative. As one path: a report has thousands."""
    drawn = []
    for at in np.flatnonzero(side.heights).tolist():
        height = max(abs(reach) * scale.height(int(side.heights[at])), 1.0)
        y = zero - height if reach < 0 else zero
        gap = min(1.0, step / 5)
        drawn.append(f"M{_n(_LEFT + step * at + gap / 2)} {_n(y)}h{_n(step - gap)}v{_n(height)}h-{_n(step - gap)}z")
    return [tag("path", d="".join(drawn), class_=side.kind)] if drawn else []


def _bound_lines(axis: Axis, bounds: Bounds, step: float, bottom: float) -> list[Html]:
    lines = []
    for bound, upper in ((bounds.min, False), (bounds.max, True)):
        if bound is None:
            continue
        x = _LEFT + step * axis.bound_place(bound, upper)
        outside = (x, _WIDTH - _RIGHT - x) if upper else (_LEFT, x - _LEFT)
        lines.append(
            tag("rect", x=_n(outside[0]), y=_TOP, width=_n(max(outside[1], 0)), height=bottom - _TOP, class_="outside")
        )
        lines.append(tag("line", x1=_n(x), x2=_n(x), y1=_TOP - 2, y2=bottom, class_="bound"))
        side = "end" if x > _WIDTH - 70 else "start" if x < _LEFT + 30 else "middle"
        lines.append(
            tag("text", f"{'≤' if upper else '≥'} {number(bound)}", x=_n(x), y=_TOP - 5, class_=f"{side} strong")
        )
    return lines


class _Scale:
    """Heights of counts, as shares of a panel."""

    def __init__(self, most: int, log: bool) -> None:
        self._most, self._log = most, log

    def height(self, count: int) -> float:
        """The height of a count: 1 for the largest."""
        return math.log1p(count) / math.log1p(self._most) if self._log else count / self._most

    def ticks(self) -> list[int]:
        """Counts to write beside the axis."""
        if self._log:
            powers = [10**k for k in range(len(str(self._most)))]
            return powers[:: 1 if len(powers) < 5 else 2]
        step = 10 ** max(len(str(self._most)) - 1, 0)
        step = next(step * k // 10 for k in (5, 10, 20, 50) if self._most * 10 < 5 * step * k) or 1
        return list(range(step, self._most + 1, step))


def _short(value: float) -> str:
    """A number beside an axis: 20k for 20,000."""
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:g}{letter}"
    return f"{value:g}"


def _n(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.2f}".rstrip("0").rstrip(".")

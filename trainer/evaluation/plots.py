"""Plots of evaluations, onto axes of matplotlib; and a figure as SVG text that is the same for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from trainer.evaluation.results import ByPosition, Retrieval, ViewResult

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")


def draw_losses(axes: Any, view: ViewResult) -> None:
    """Loss by position: a colour a component; all labels thin and dashed, records of one document solid."""
    for number, (name, each) in enumerate(view.components.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        draw_curve(axes, each.by_position, color=colour, linewidth=0.8, linestyle="--", label=f"{name}, all")
        draw_curve(axes, each.whole_by_position, color=colour, linewidth=1.4, label=f"{name}, whole records")
    finish_losses(axes, view.sequence_length)


def draw_curve(axes: Any, curve: ByPosition, **style: Any) -> None:
    """A point a bucket that has labels, in its middle."""
    points = [
        ((low + high - 1) / 2, loss)
        for low, high, loss in zip(curve.edges[:-1], curve.edges[1:], curve.loss, strict=True)
        if loss is not None
    ]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", markersize=3, **style)


def finish_losses(axes: Any, length: int) -> None:
    """Titles, scale and legend of a plot of curves."""
    axes.set_xscale("log", base=2)
    axes.set(title=f"length {length:,}", xlabel="tokens of the document before", ylabel="nats a label")
    axes.grid(linewidth=0.3)
    axes.legend(frameon=False, fontsize="x-small")


def draw_grid(axes: Any, retrievals: Sequence[Retrieval]) -> None:
    """Share of keys found, as colour and per cent: columns lengths, rows depths, 0 % at the top."""
    there = [each for each in retrievals if each.found]
    if not there:
        axes.axis("off")
        axes.text(0.5, 0.5, "no retrieval was measured", ha="center")
        return
    shares = [list(row) for row in zip(*(each.found for each in there), strict=True)]
    columns, rows = range(len(there)), range(len(shares))
    axes.pcolormesh(columns, rows, shares, cmap="RdYlGn", vmin=0, vmax=1)  # as shapes: no picture within the picture
    axes.invert_yaxis()
    for row, line in enumerate(shares):
        for column, share in enumerate(line):
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize="x-small")
    axes.set_xticks(columns, [f"{each.length:,}" for each in there])
    axes.set_yticks(rows, [f"{depth:.0%}" for depth in there[0].depths])
    axes.set(title="keys found", xlabel="tokens of the haystack", ylabel="depth of the needle")


def svg(figure: Figure) -> str:
    """The figure's element, without the XML declaration before it."""
    text = io.StringIO()
    # Text as text, and ids that do not change from one drawing to the next.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tokenmill"}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    whole = text.getvalue()
    return whole[whole.index("<svg") :]

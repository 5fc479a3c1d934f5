"""An evaluation as one HTML file that needs no other: tables and plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from matplotlib.figure import Figure

from trainer.evaluation.plots import draw_grid, draw_losses, svg
from trainer.evaluation.results import Evaluation

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .2rem .8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


def page(evaluation: Evaluation) -> str:
    """The file's text."""
    title = f"Evaluation of {evaluation.model}"
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(_about(evaluation))}</p>",
            "<h2>Loss and perplexity</h2>",
            _table(["view", "component", "loss, nats a label", "perplexity", "labels"], _losses(evaluation)),
            "<h2>Loss by position</h2>",
            "<p>By the number of tokens of its document that stand before a label in the record. Whole records are one "
            "document from their first token to their last: there every point is of the same documents.</p>",
            svg(_curves(evaluation)),
            "<h2>Retrieval</h2>",
            "<p>Share of pass keys found: the depth is the share of the text that stands before the needle.</p>",
            *(f"<p>{escape(each)}</p>" for each in _reasons(evaluation)),
            svg(_grid(evaluation)),
            "</body></html>\n",
        ]
    )


def _about(evaluation: Evaluation) -> str:
    step = "" if evaluation.step is None else f" After step {evaluation.step:,}."
    yarn = evaluation.yarn
    stretched = (
        "Rotary positions as in pre-training."
        if yarn is None
        else f"YaRN by {yarn['factor']:g} from {yarn['original_max_position_embeddings']:,} positions."
    )
    return f"{stretched}{step} Made in {evaluation.seconds:,.0f} s."


def _losses(evaluation: Evaluation) -> Iterator[list[str]]:
    for view in evaluation.views:
        where = f"{view.sequence_length:,} ({view.data})"
        for name, each in view.components.items():
            yield [where, name, f"{each.loss:.4f}", f"{each.perplexity:.3f}", f"{each.labels:,}"]
        yield [where, "weighted by shares", f"{view.loss:.4f}", f"{view.perplexity:.3f}", ""]


def _reasons(evaluation: Evaluation) -> Iterator[str]:
    for view in evaluation.views:
        if view.retrieval.reason is not None:
            yield f"Not measured at {view.retrieval.length:,} tokens: {view.retrieval.reason}."
        else:
            yield f"{view.retrieval.samples} haystacks of {view.retrieval.length:,} tokens at each depth."


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(each, 'td') for each in rows)}</table>"


def _curves(evaluation: Evaluation) -> Figure:
    count = len(evaluation.views)
    figure = Figure(figsize=(4.6 * count, 3.6), layout="constrained")
    for axes, view in zip(figure.subplots(1, count, squeeze=False)[0], evaluation.views, strict=True):
        draw_losses(axes, view)
    return figure


def _grid(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=(2 + 1.2 * len(evaluation.views), 4.2), layout="constrained")
    draw_grid(figure.subplots(), [view.retrieval for view in evaluation.views])
    return figure

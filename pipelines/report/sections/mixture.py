"""The mixture: what the config asked for and what each view got, and where the tokens are."""

from __future__ import annotations

from pipelines.report.blocks import Column, Summed, details, note, table
from pipelines.report.charts import bar
from pipelines.report.gather import Numbers
from pipelines.report.markup import Html, join, number, percent, tag
from schemas.manifest import OrderComponent, ShardManifest

_LEAST = 1e-9  # shares that differ by less are equal


def section(numbers: Numbers) -> Html:
    """Asked and got, a table a view."""
    views = [view for view in numbers.views.values() if view is not None]
    if not views:
        return note("No view is finished. Asked for are ", _asked(numbers), ".")
    return join(
        note(
            "A component's share of the records of the train split is held in every stretch that begins at the start "
            "of the order, to within one record. Shares of tokens differ a little, because records are padded."
        ),
        [_view(view) for view in views],
    )


def _asked(numbers: Numbers) -> str:
    return ", ".join(f"{percent(float(one.weight), 1)} {name}" for name, one in numbers.config.components.items())


def _view(view: ShardManifest) -> Html:
    length = view.sequence_length
    parts = view.order.components
    columns = [
        Column("component"),
        Column("asked", "num"),
        Column("got, of records", "num"),
        Column("of tokens", "num"),
        Column("got; the line: asked", "drawn"),
    ]
    rows = [
        (
            part.name,
            percent(part.requested, 1),
            percent(part.realised, 1),
            percent(view.components[part.name].token_share, 1),
            bar([(part.realised, "kept")], part.requested),
        )
        for part in parts
    ]
    off = [part for part in parts if abs(part.realised - part.requested) > _LEAST]
    return join(
        tag("h3", f"Sequence length {length:,}"),
        _verdict(off),
        table(f"Shares of the {view.splits.train.records:,} train records", columns, rows),
        _places(view),
        details("Sequences and repeats", _sequences(view)),
    )


def _verdict(off: list[OrderComponent]) -> Html:
    if not off:
        return tag("p", "The mixture is exactly the one asked for.", class_="good")
    names = ", ".join(f"{part.name} ({percent(part.requested, 1)} → {percent(part.realised, 1)})" for part in off)
    return tag(
        "p",
        f"Not the mixture asked for: {names}. There are too few sequences for a whole period of the order; the shares "
        f"that were got are held instead.",
        class_="bad",
    )


def _places(view: ShardManifest) -> Html:
    """Where tokens are, and what fills the records."""
    law = view.conservation.tokens
    places = law.in_records + law.repeated + law.padding
    parts = (("tokens, each once", law.in_records), ("repeats", law.repeated), ("padding", law.padding))
    rows = [(name, number(n), percent(n, places), bar([(n / max(places, 1), "kept")])) for name, n in parts]
    return join(
        table(
            "What fills the records of train and validation",
            [Column("what"), Column("tokens", "num"), Column("share", "num"), Column("", "drawn")],
            [*rows, Summed(("all places", number(places), percent(places, places), ""))],
        ),
        note(
            f"Unused: {number(law.unused)} of {number(law.encoded)} tokens ({percent(law.unused, law.encoded)}) lie in "
            "no record, because the mixture has no place for their sequences."
        ),
    )


def _sequences(view: ShardManifest) -> Html:
    columns = [Column("component"), *(Column(name, "num") for name in ("packed", "used", "unused", "repeats up to"))]
    rows = [
        (name, *(number(count) for count in (counts.available, counts.used, counts.unused, counts.repeats)))
        for name, counts in view.components.items()
    ]
    train = view.splits.train
    return join(
        table("Sequences for the train split", columns, rows),
        note(
            f"{train.lanes:,} lanes × {train.groups:,} groups × {train.rows:,} rows, packing {view.packing}, "
            f"{view.token_dtype}, seed {view.order.seed}."
        ),
    )

"""What became of the documents: the funnel with every reason, and its rates against the alarms."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.report.accounts import DUPLICATE_ALARM, FILTERED_ALARM, Funnel, Rate, funnel, rates, total
from pipelines.report.blocks import Column, Summed, details, key, note, path, table
from pipelines.report.charts import bar
from pipelines.report.gather import EXAMPLES, Component, Numbers
from pipelines.report.markup import Html, clip, join, number, percent, tag

_FIRST = 12  # reasons shown before the rest is folded away
_DETAIL = 160


def section(numbers: Numbers) -> Html:
    """Rates, then the funnel of all components and of each."""
    found = [(one, whole) for one in numbers.components if (whole := funnel(one)) is not None]
    if not found:
        return note("Ingest is not finished, so no document is counted yet.")
    funnels = [whole for _, whole in found]
    return join(
        _rates(found),
        note(key("kept"), "still there", key("gone"), "removed at this step"),
        _funnel("All components", total(funnels)) if len(found) > 1 else None,
        [join(_funnel(one.name, whole), _reasons(one.name, whole), _examples(one)) for one, whole in found],
    )


def _rates(found: Sequence[tuple[Component, Funnel]]) -> Html:
    told = [(one.name, rate) for one, whole in found for rate in rates(whole)]
    scale = max([2 * FILTERED_ALARM] + [rate.share for _, rate in told])  # one for all, so that bars can be compared
    rows = [
        (
            name,
            rate.what,
            percent(rate.share, 1),
            bar([(rate.share / scale, "gone" if rate.alarm else "kept")], rate.limit / scale),
            _verdict(rate),
        )
        for name, rate in told
    ]
    columns = [Column("component"), Column("what"), Column("of found", "num"), Column("the line: the alarm", "drawn"),
               Column("verdict")]  # fmt: skip
    return join(
        table(
            f"Rates and alarms: {percent(FILTERED_ALARM, 1)} rejected, {percent(DUPLICATE_ALARM, 1)} duplicates",
            columns,
            rows,
        ),
        note(
            "Shares of the documents found. A sound corpus stays below both alarms; a rate above one is no error, but "
            "look at the reasons before training."
        ),
    )


def _verdict(rate: Rate) -> Html:
    if rate.alarm:
        return tag("span", f"above {percent(rate.limit, 1)}", class_="bad")
    return tag("span", "below", class_="good")


def _funnel(name: str, whole: Funnel) -> Html:
    rows: list[Sequence[object]] = [
        Summed(("found", number(whole.found), percent(whole.found, whole.found), bar([(1.0, "kept")])))
    ]
    for step in whole.steps:
        if step.removed is None:
            rows.append((step.name, "not finished", "", ""))
            continue
        gone = sum(step.removed.values())
        share = [(step.left / max(whole.found, 1), "faint"), (gone / max(whole.found, 1), "gone")]
        rows.append((step.name, f"− {gone:,}" if gone else "0", percent(gone, whole.found), bar(share)))
    last = "kept" if whole.finished else "left so far"
    rows.append(
        Summed(
            (
                last,
                number(whole.left),
                percent(whole.left, whole.found),
                bar([(whole.left / max(whole.found, 1), "kept")]),
            )
        )
    )
    columns = [Column("step"), Column("documents", "num"), Column("of found", "num"), Column("", "drawn")]
    return join(tag("h3", name), table(f"Documents of {name.lower()}, step by step", columns, rows))


def _reasons(name: str, whole: Funnel) -> Html:
    reasons = whole.reasons()
    if not reasons:
        return note("Nothing was removed.")
    most = reasons[0][2]
    rows = [
        (path(reason), step, number(count), percent(count, whole.found), bar([(count / most, "gone")]))
        for reason, step, count in reasons
    ]
    columns = [Column("reason"), Column("step"), Column("documents", "num"), Column("of found", "num"),
               Column("", "drawn")]  # fmt: skip
    shown = table(f"Why documents of {name} were removed", columns, rows[:_FIRST])
    rest = rows[_FIRST:]
    return join(shown, details(f"{len(rest)} more reasons", table("The rest", columns, rest)) if rest else None)


def _examples(one: Component) -> Html | None:
    """The first rejects of each reason, with the values that broke a rule."""
    rows = [
        (path(reason), path(example.source), clip(example.detail, _DETAIL), tag("code", clip(example.sample, _DETAIL)))
        for reason, examples in sorted(one.measures.examples.items())
        for example in examples
    ]
    if not rows:
        return None
    columns = [Column(name) for name in ("reason", "source", "detail", "beginning")]
    return details(
        f"Examples of what was rejected ({one.name})",
        table(f"The first {EXAMPLES} of each reason; the rejected-*.parquet files have all", columns, rows, stack=True),
    )

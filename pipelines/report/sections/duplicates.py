"""Duplicates: how large the clusters are, the largest ones, and the least similar pair that counts as one."""

from __future__ import annotations

import numpy as np

from pipelines.report.accounts import DUPLICATES, Funnel, funnel
from pipelines.report.blocks import Column, details, key, note, path, table
from pipelines.report.charts import Side, bar, histogram
from pipelines.report.compare import Line, Piece, Row
from pipelines.report.duplicates import Cluster, Duplicates, Named, Pair
from pipelines.report.gather import Numbers
from pipelines.report.markup import Html, join, number, percent, plural, tag
from pipelines.report.values import Values, similarity_axis
from schemas.config import Bounds

_OPEN = 3  # clusters shown before the rest is folded away


def section(numbers: Numbers) -> Html:
    """Counts, cluster sizes, similarities, the largest clusters, and a pair."""
    found = numbers.duplicates
    if found is None:
        return note("Deduplication is not finished, so nothing is known of duplicates.")
    if not numbers.config.dedup.enabled:
        return note("Deduplication is switched off (dedup.enabled: false): nothing was compared.")
    if not found.sizes.number:
        return note("No document was dropped as a duplicate.")
    estimated = numbers.config.dedup.check == "signature"
    return join(
        _counts(numbers),
        tag("h3", "Clusters"),
        note(
            "A cluster is what chains of near-duplicates join; of each, at least one document is kept. Exact copies "
            "count for the cluster of the document they copy, or for that document where it has no near-duplicate."
        ),
        _sizes(found.sizes),
        _similarities(numbers, found, estimated),
        tag("h3", "The largest clusters"),
        _largest(found.largest, estimated),
        _pair(found.pair, estimated) if found.pair else None,
    )


def _counts(numbers: Numbers) -> Html:
    rows = []
    for one in numbers.components:
        whole = funnel(one)
        if whole is not None:
            rows.append((one.name, *_of(whole)))
    columns = [Column("component"), *(Column(name, "num") for name in ("compared", "exact", "near", "of compared"))]
    return table("Documents dropped as duplicates", columns, rows)


def _of(whole: Funnel) -> tuple[str, str, str, str]:
    at = next(at for at, step in enumerate(whole.steps) if step.name == DUPLICATES)
    compared, removed = whole.steps[at - 1].left, whole.steps[at].removed
    if removed is None:
        return number(compared), "–", "–", "not finished"
    exact, near = removed.get("exact_duplicate", 0), removed.get("near_duplicate", 0)
    return number(compared), number(exact), number(near), percent(exact + near, compared)


def _sizes(sizes: Values) -> Html:
    """Clusters by the number of documents dropped, in ranges that double."""
    values, counts = sizes.rounded()
    exponents = np.ceil(np.log2(values)).astype(int)
    rows = []
    most = 0
    for exponent in range(int(exponents.max()) + 1):
        chosen = exponents == exponent
        clusters, dropped = int(counts[chosen].sum()), float((counts * values)[chosen].sum())
        low, high = (1 << exponent - 1) + 1 if exponent else 1, 1 << exponent
        most = max(most, clusters)
        rows.append((f"{low:,}" if low == high else f"{low:,}–{high:,}", clusters, dropped))
    columns = [Column("dropped of a cluster", "num"), Column("clusters", "num"), Column("documents dropped", "num"),
               Column("clusters", "drawn")]  # fmt: skip
    return table(
        f"{plural(sizes.number, 'cluster')} by the number of documents dropped",
        columns,
        [(size, number(n), number(round(dropped)), bar([(n / most, "kept")])) for size, n, dropped in rows],
    )


def _similarities(numbers: Numbers, found: Duplicates, estimated: bool) -> Html | None:
    values = found.similarities
    if not values.number:
        return None
    threshold = numbers.config.dedup.threshold
    axis = similarity_axis(min(threshold, values.least), numbers.config.dedup.permutations)
    told = (
        f"{plural(values.number, 'near-duplicate')}: {'estimated ' if estimated else ''}similarity (Jaccard) from "
        f"{number(values.least)} to {number(values.greatest)}, median {number(values.quantile(0.5))}"
    )
    picture = histogram(axis, Side(axis.heights(values), "gone"), None, told, Bounds(min=threshold))
    caption = tag("figcaption", told, tag("span", "to the document kept instead; the line is dedup.threshold"))
    return tag("div", tag("figure", caption, picture), class_="charts")


def _largest(clusters: tuple[Cluster, ...], estimated: bool) -> Html:
    told = [_cluster(cluster, estimated) for cluster in clusters]
    first, rest = told[:_OPEN], told[_OPEN:]
    return join(
        tag("ol", first, class_="clusters"),
        details(f"{len(rest)} more", tag("ol", rest, class_="clusters")) if rest else None,
        note("python -m pipelines explain DIR ID tells all of one document."),
    )


def _cluster(cluster: Cluster, estimated: bool) -> Html:
    exact = cluster.dropped - cluster.near
    least = f"{'estimated ' if estimated else ''}Jaccard {number(cluster.least)} or more"
    how = [f"{cluster.near:,} near, {least}" if cluster.near else None, f"{exact:,} exact" if exact else None]
    more_kept, more = cluster.kept_count - len(cluster.kept), cluster.dropped - len(cluster.examples)
    return tag(
        "li",
        tag("strong", f"{cluster.dropped:,} dropped"),
        f" ({'; '.join(part for part in how if part)}), {cluster.kept_count:,} kept instead",
        tag("span", ", cluster ", path(cluster.name), class_="quiet"),
        tag(
            "ul",
            [tag("li", key("kept"), "kept: ", _named(one)) for one in cluster.kept],
            tag("li", f"and {more_kept:,} more kept", class_="quiet") if more_kept else None,
            [tag("li", key("gone"), "dropped: ", _named(one)) for one in cluster.examples],
            tag("li", f"and {more:,} more dropped", class_="quiet") if more else None,
        ),
    )


def _named(one: Named) -> Html:
    if not one.source:
        return join(path(one.id), " (of an earlier run)")
    return join(path(one.source), " ", tag("span", path(one.id), class_="quiet"))


def _pair(pair: Pair, estimated: bool) -> Html:
    """The texts side by side; on a phone, one below the other."""
    head = tag(
        "div",
        tag("div", "dropped: ", path(pair.dropped.source), role="columnheader"),
        tag("div", "kept: ", path(pair.kept.source), role="columnheader"),
        role="row",
    )
    hunks = pair.comparison.hunks
    first = hunks[0][0] if hunks else None
    whole = first is not None and all(line is None or line.number == 1 for line in (first.left, first.right))
    rows = [_row(row) for hunk in hunks for row in (None, *hunk)][1 if whole else 0 :]
    return join(
        tag("h3", "The least similar pair"),
        note(
            f"Of all near-duplicates, this one is the least like the document kept instead: Jaccard "
            f"{number(pair.jaccard)}{' (estimated)' if estimated else ''}. All others are at least as similar. "
            "Shown are the lines that differ, with a few around them; white space is not compared."
        ),
        tag("div", head, rows, class_="pair", role="table", aria_label="Two texts side by side") if hunks else None,
        None if hunks else note("The parts that were compared do not differ."),
        note("More of them differs than is shown here.") if pair.comparison.cut else None,
    )


def _row(row: Row | None) -> Html:
    if row is None:
        return tag(
            "div",
            tag("div", "⋯", role="cell", class_="gap"),
            tag("div", "⋯", role="cell", class_="gap none"),
            role="row",
        )
    return tag(
        "div",
        _line(row.left, "del"),
        _line(row.right, "ins"),
        role="row",
        class_="same" if row.same else None,
    )


def _line(line: Line | None, mark: str) -> Html:
    if line is None:
        return tag("div", role="cell", class_="none")
    text = tag("span", [_piece(piece, mark) for piece in line.pieces], class_="line", dir="auto")
    return tag("div", tag("span", line.number, class_="at", aria_hidden="true"), text, role="cell")


def _piece(piece: Piece, mark: str) -> Html:
    return tag(mark, piece[0]) if piece[1] else join(piece[0])

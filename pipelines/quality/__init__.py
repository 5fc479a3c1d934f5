"""Quality rules: one number a document and rule, measured for a whole batch at once, and what they reject.

The catalogue with thresholds is `schemas.rules.RULES`; docs/quality.md states every formula.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.quality import code, encoded, lines, repetition, words
from pipelines.quality.batch import Batch, Measure
from pipelines.text_table import TextTable
from schemas.rules import RULES, RuleKind

MEASURES: Final[dict[str, Measure]] = {
    **code.MEASURES,
    **encoded.MEASURES,
    **lines.MEASURES,
    **repetition.MEASURES,
    **words.MEASURES,
}
"""The function that measures each rule of the catalogue."""

Failure = tuple[str, float, str]
"""(rule, measured value, bound that it breaks, such as "<= 0.7")."""


def measure(
    table: TextTable,
    texts: Sequence[str],
    kind: RuleKind,
    languages: Sequence[str],
    paths: Sequence[str],
    rules: Collection[str],
) -> dict[str, NDArray[np.float64]]:
    """The values of the named rules, in catalogue order.

    Args:
        table: of the n `texts`, which are cleaned.
        kind: of the component they belong to.
        languages: a Pygments lexer name or an ISO 639 code each, as `pipelines.language` gives them.
        paths: file names, for the rules that look at them.
        rules: names of rules that `kind` has.

    Returns:
        rule -> float64 [n]; NaN where the rule does not apply to the document.

    Raises:
        ValueError: a rule is unknown or not one of `kind`.
    """
    for name in rules:
        if name not in RULES or kind not in RULES[name].kinds:
            raise ValueError(f"{name!r} is not a quality rule of {kind} components")
    chosen = frozenset(rules)
    batch = Batch(table, texts, kind, languages, paths, chosen)
    return {name: MEASURES[name](batch) for name in RULES if name in chosen}


def first_failures(
    values: Mapping[str, NDArray[np.float64]], bounds: Mapping[str, tuple[float | None, float | None]]
) -> list[Failure | None]:
    """For each of n documents the first rule, in catalogue order, whose value lies outside its bounds.

    Args:
        values: rule -> float64 [n], NaN where a rule does not apply (and so cannot fail).
        bounds: rule -> (least, greatest) value that passes, None where there is no bound.
    """
    failures: list[Failure | None] = [None] * max((len(column) for column in values.values()), default=0)
    for name in RULES:
        if name not in bounds or name not in values:
            continue
        least, greatest = bounds[name]
        column = values[name]
        low = column < least if least is not None else np.zeros(len(column), dtype=np.bool_)
        high = column > greatest if greatest is not None else np.zeros(len(column), dtype=np.bool_)
        for i in np.flatnonzero(low | high).tolist():
            if failures[i] is None:
                broken = f">= {least:g}" if low[i] else f"<= {greatest:g}"
                failures[i] = (name, float(column[i]), broken)
    return failures

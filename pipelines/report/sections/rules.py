"""Quality rules: what each measured, on both sides of its thresholds."""

from __future__ import annotations

from pipelines.report.accounts import funnel
from pipelines.report.blocks import details, key, note, path
from pipelines.report.charts import Side, histogram
from pipelines.report.gather import Component, Numbers, Rule
from pipelines.report.markup import Html, join, number, plural, tag
from pipelines.report.values import axis_for
from schemas.config import Bounds
from schemas.rules import RULES


def section(numbers: Numbers) -> Html:
    """Histograms of each component's rules; those that rejected nothing are folded away."""
    if all(one.documents is None for one in numbers.components):
        return note("Ingest is not finished, so nothing is known of the rules.")
    return join(
        note(
            "A document is rejected by the first rule it breaks, in this order, and only that value is recorded. So "
            "a picture shows the values of all documents that passed, and of those this rule rejected. ",
            "Counts are on a logarithmic scale.",
        ),
        note(key("kept"), "passed all rules", key("gone"), "rejected by this rule"),
        [_component(numbers, one) for one in numbers.components],
    )


def _component(numbers: Numbers, one: Component) -> Html:
    rules = one.measures.rules
    if one.documents is None:
        told: Html = note("Ingest is not finished.")
    elif not rules:
        told = note("No quality rule is in force.")
    else:
        silent = [name for name, rule in rules.items() if rule.passed.number == rule.rejected.number == 0]
        active = [name for name, rule in rules.items() if rule.rejected.number]
        quiet = [name for name, rule in rules.items() if name not in active and name not in silent]
        told = join(
            tag("div", [_rule(name, rules[name]) for name in active], class_="charts") if active else None,
            None if active else note("No rule rejected a document."),
            details(
                f"{plural(len(quiet), 'rule')} that rejected nothing",
                tag("div", [_rule(name, rules[name]) for name in quiet], class_="charts"),
            )
            if quiet
            else None,
            note("Applied to no document: ", join(*_listed(silent)), ".") if silent else None,
        )
    return join(tag("h3", one.name), told, _token_rule(numbers, one))


def _listed(names: list[str]) -> list[object]:
    return [part for at, name in enumerate(names) for part in ((", " if at else None), path(name))]


def _rule(name: str, rule: Rule) -> Html:
    return _figure(name, RULES[name].description, rule, rule.rejected.number)


def _token_rule(numbers: Numbers, one: Component) -> Html | None:
    rule = one.measures.token_rule
    if one.tokens is None or (rule.bounds.min is None and rule.bounds.max is None):
        return None
    whole = funnel(one)
    rejected = (whole.steps[-1].removed or {}) if whole else {}
    names = [name for name in ("min_tokens", "max_tokens") if getattr(numbers.config.tokenize, name) is not None]
    others = {reason: count for reason, count in rejected.items() if reason not in names}
    described = "Tokens, counted in the tokenize stage, after deduplication."
    listed = ", ".join(f"{count:,} by {reason}" for reason, count in sorted(others.items()))
    return join(
        tag("div", _figure(" and ".join(names), described, rule, rule.rejected.number), class_="charts"),
        note(f"Other token rules rejected: {listed}.") if others else None,
    )


def _figure(name: str, description: str, rule: Rule, rejected: int) -> Html:
    passed = rule.passed.number
    counts = f"{rejected:,} rejected, {passed:,} passed"
    said = f"{name}, {_passes(rule.bounds)}: {counts}"
    if passed:
        middle, most = number(rule.passed.quantile(0.5)), number(rule.passed.quantile(0.99))
        said += f"; of those passed, median {middle}, 99 % at most {most}"
    axis = axis_for([rule.passed, rule.rejected], [b for b in (rule.bounds.min, rule.bounds.max) if b is not None])
    least, greatest = rule.bounds.min, rule.bounds.max
    up = Side(axis.heights(rule.passed, least, greatest), "kept")
    beyond = (greatest, least) if least is None or greatest is None else (None, None)
    down = Side(axis.heights(rule.rejected, *beyond), "gone") if rejected else None
    picture = histogram(axis, up, down, said, rule.bounds, log_counts=True)
    caption = tag("figcaption", tag("strong", name), f": {counts}", tag("span", description))
    return tag("figure", caption, picture)


def _passes(bounds: Bounds) -> str:
    if bounds.min is not None and bounds.max is not None:
        return f"passes from {bounds.min:g} to {bounds.max:g}"
    if bounds.min is not None:
        return f"passes from {bounds.min:g}"
    return f"passes up to {bounds.max:g}" if bounds.max is not None else "no bound"

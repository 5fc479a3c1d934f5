"""What the manifests of a run say, added up: the funnel, its rates, the laws, and what is not there yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.report.gather import Component, Numbers
from pipelines.report.markup import percent
from schemas.manifest import STAGES, ShardManifest, Stage, StageManifest
from schemas.rules import RULES

FILTERED_ALARM = 0.10
DUPLICATE_ALARM = 0.05
"""Shares of the documents found that a sound corpus stays below."""


@dataclass(frozen=True)
class Step:
    """A step of the funnel. removed: documents by reason; None when its stage is not finished. left: after it."""

    name: str
    removed: dict[str, int] | None
    left: int


@dataclass(frozen=True)
class Funnel:
    """Documents from the sources to the tokens; `steps` in order."""

    found: int
    steps: tuple[Step, ...]

    @property
    def finished(self) -> bool:
        """Whether every step is."""
        return all(step.removed is not None for step in self.steps)

    @property
    def deduplicated(self) -> bool:
        """Whether the duplicates are known."""
        return all(step.removed is not None for step in self.steps if step.name == DUPLICATES)

    @property
    def left(self) -> int:
        """Documents left after the last finished step."""
        return self.steps[-1].left

    def removed(self, duplicates: bool) -> int:
        """Documents dropped as duplicates, or rejected."""
        return sum(sum((step.removed or {}).values()) for step in self.steps if (step.name == DUPLICATES) is duplicates)

    def reasons(self) -> list[tuple[str, str, int]]:
        """(reason, step, documents), most documents first."""
        found = [(reason, step.name, count) for step in self.steps for reason, count in (step.removed or {}).items()]
        return sorted(found, key=lambda entry: (-entry[2], entry[0]))


READING, QUALITY, DUPLICATES, TOKENS = "reading and cleaning", "quality rules", "duplicates", "token rules"


def funnel(component: Component) -> Funnel | None:
    """A component's funnel; None before its ingest is finished."""
    if component.documents is None:
        return None
    rejected = _reasons(component.documents, "rejected")
    removed = {
        READING: {reason: count for reason, count in rejected.items() if reason not in RULES},
        QUALITY: {reason: count for reason, count in rejected.items() if reason in RULES},
        DUPLICATES: _reasons(component.drops, "dropped") if component.drops else None,
        TOKENS: _reasons(component.tokens, "rejected") if component.tokens else None,
    }
    return _funnel(component.documents.counts.get("documents_in", 0), removed)


def total(funnels: Sequence[Funnel]) -> Funnel:
    """Several funnels as one; a step is finished when it is in all."""
    removed: dict[str, dict[str, int] | None] = {}
    for name in (READING, QUALITY, DUPLICATES, TOKENS):
        steps = [step for one in funnels for step in one.steps if step.name == name]
        summed: Counter[str] = Counter()
        for step in steps:
            summed.update(step.removed or {})
        removed[name] = dict(summed) if all(step.removed is not None for step in steps) else None
    return _funnel(sum(one.found for one in funnels), removed)


def _funnel(found: int, removed: dict[str, dict[str, int] | None]) -> Funnel:
    steps: list[Step] = []
    left = found
    for name, reasons in removed.items():
        left -= sum((reasons or {}).values())
        steps.append(Step(name, reasons, left))
    return Funnel(found, tuple(steps))


def _reasons(whole: StageManifest, kind: str) -> dict[str, int]:
    return {key.split(".", 1)[1]: count for key, count in whole.counts.items() if key.startswith(f"{kind}.") and count}


def finished(numbers: Numbers) -> list[Stage]:
    """The stages that are finished for every component and view, in order."""
    whole: dict[Stage, bool] = {
        "ingest": all(one.documents for one in numbers.components),
        "dedup": all(one.drops for one in numbers.components),
        "tokenizer": numbers.tokenizer is not None,
        "tokenize": all(one.tokens for one in numbers.components),
        "shard": all(numbers.views.values()),
    }
    return [stage for stage in STAGES if whole[stage]]


def missing(numbers: Numbers) -> list[str]:
    """What a reader must know is not in the numbers, a sentence each."""
    told: list[str] = []
    for one in numbers.components:
        if one.documents is None:
            told.append(f"Ingest of {one.name} is not finished: its documents are in no number here.")
        elif one.drops is None:
            told.append(f"Deduplication of {one.name} is not finished: nothing is known of its duplicates.")
        elif one.tokens is None:
            told.append(f"Tokenizing of {one.name} is not finished: its tokens and the token rules are missing.")
    if numbers.tokenizer is None:
        told.append("There is no tokenizer yet.")
    told += [
        f"The view of sequence length {length:,} is not finished: its mixture is not known."
        for length, view in numbers.views.items()
        if view is None
    ]
    if numbers.facts is None:
        told.append("There is no run.json, which is written at the end of a run: times and memory are not known.")
    return told


def broken(numbers: Numbers) -> list[str]:
    """Where the manifests do not add up; nothing, unless stages of different runs lie beside each other."""
    told: list[str] = []
    for one in numbers.components:
        found = funnel(one)
        if found is None:
            continue
        if one.drops and one.documents and one.drops.inputs.get(one.name) != one.documents.fingerprint:
            told.append(f"Deduplication of {one.name} was made from other documents than there are now.")
        if one.documents and found.steps[1].left != one.documents.counts.get("kept", 0):
            told.append(f"Documents of {one.name} do not add up: found is not kept + rejected after ingest.")
        if one.tokens and found.finished and found.left != one.tokens.counts.get("kept", 0):
            told.append(f"Documents of {one.name} do not add up: found is not kept + dropped + rejected.")
    for length, view in numbers.views.items():
        if view is not None:
            told += _broken_view(numbers, length, view)
    return told


def _broken_view(numbers: Numbers, length: int, view: ShardManifest) -> list[str]:
    laws = view.conservation
    records = view.splits.train.records + sum(split.records for split in view.splits.validation.values())
    found = [funnel(one) for one in numbers.components]
    known = [one for one in found if one is not None and one.finished]
    told = []
    if not laws.documents.holds() or not laws.tokens.holds(records, length):
        told.append(f"The view of sequence length {length:,} does not account for every document and token.")
    if len(known) == len(found) and laws.documents.into != sum(one.found for one in known):
        told.append(f"The view of sequence length {length:,} was cut from another number of documents.")
    return told


@dataclass(frozen=True)
class Rate:
    """A share of the documents found, and the alarm it should stay below."""

    what: str
    share: float
    limit: float

    @property
    def alarm(self) -> bool:
        """Whether the share is above the alarm."""
        return self.share > self.limit


def rates(whole: Funnel) -> list[Rate]:
    """What was rejected so far, and, once that is known, what was dropped as duplicates."""
    found = max(whole.found, 1)
    rejected = Rate("rejected", whole.removed(duplicates=False) / found, FILTERED_ALARM)
    if not whole.deduplicated:
        return [rejected]
    return [rejected, Rate("duplicates", whole.removed(duplicates=True) / found, DUPLICATE_ALARM)]


def alarms(numbers: Numbers) -> list[str]:
    """Rates above their alarms, and the alarms of the dedup manifests; one on a cluster stands in each of these."""
    told = [
        f"{one.name}: {percent(rate.share, 1)} {rate.what}, more than {percent(rate.limit, 1)}"
        for one in numbers.components
        if (whole := funnel(one)) is not None
        for rate in rates(whole)
        if rate.alarm
    ]
    stated = [alarm for one in numbers.components if one.drops for alarm in one.drops.alarms]
    return told + list(dict.fromkeys(stated))

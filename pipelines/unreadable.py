"""The limit on unreadable input, `ingest.max_rejected_fraction`: at the end, and early for what is mostly unreadable.

When all is ingested, each source is judged by all of its documents. Before that, `FIRST` units of each source, drawn by
key, are ingested and judged as steps of the same job, so that on any runner a source of the wrong format or encoding
costs `FIRST` units and not the whole stage. It is refused there when more than `MOSTLY` of their documents are
unreadable, and more than the limit. Which units are drawn follows from the plan and the seed, so the same inputs are
refused on every runner, with any number of workers, after any kill.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines import stages
from pipelines.jobs import Run
from pipelines.plan import Unit
from pipelines.sources import Reject
from pipelines.sources.base import printable
from pipelines.stages import Receipt
from schemas.config import Config
from schemas.errors import TokenmillError
from schemas.permutation import key64

FIRST = 32  # units of a source
MOSTLY = 0.5
SHOWN = 3  # rejects in the sentence
FACT = "unreadable"  # of a receipt: the unit's first unreadable inputs, as told


def told(reject: Reject) -> str:
    """A reject in a few words."""
    detail = f", {reject.detail}" if reject.detail else ""
    return printable(f"{reject.source}: {reject.reason}{detail}")


First = tuple[tuple[str, int, tuple[int, ...]], ...]  # (component, source, tasks)


def first_units(units: Sequence[Unit], tasks: Iterable[int], seed: int) -> First:
    """By source, the tasks to ingest first: of all its units, whether or not they are done, ascending."""
    by_source: dict[tuple[str, int], list[int]] = {}
    for task in tasks:
        by_source.setdefault((units[task].component, units[task].source), []).append(task)

    def draw(own: list[int]) -> tuple[int, ...]:
        by_key = sorted(own, key=lambda task: key64(f"tokenmill first units {seed} {units[task].name}"))
        return tuple(sorted(by_key[:FIRST]))

    return tuple((*source, draw(own)) for source, own in by_source.items())


@dataclass(frozen=True)
class Judge:
    """The task: stop the job if a source is mostly unreadable."""

    config: Config
    folders: dict[str, str]
    first: First

    def __call__(self, run: Run, task: int) -> None:
        """Judge every source by the receipts of its first units. Raises TokenmillError."""
        for component, source, tasks in self.first:
            receipts = stages.read_receipts(run, self.folders[component], tasks)
            limit = max(MOSTLY, self.config.ingest.max_rejected_fraction)
            check_source(self.config, component, source, receipts, limit, f" in {len(tasks)} units, looked at first,")


def check_source(
    config: Config, component: str, source: int, receipts: Sequence[Receipt], limit: float, where: str = ""
) -> None:
    """Raise TokenmillError when more than `limit` of the documents a source has in `receipts` are unreadable."""
    key = f"source.{source}.documents_in"
    own = [receipt for receipt in receipts if key in receipt.unit.counts]
    counts = stages.total(receipt.unit.counts for receipt in own)
    seen, unreadable = counts.get(key, 0), counts.get(f"source.{source}.unreadable", 0)
    if unreadable <= limit * seen:
        return
    first = [one for receipt in own for one in receipt.facts.get(FACT, ())][:SHOWN]
    raise TokenmillError(
        f"components.{component}: {unreadable} of {seen} documents of source "
        f"{config.components[component].sources[source].path}{where} are unreadable, more than "
        f"ingest.max_rejected_fraction = {config.ingest.max_rejected_fraction} allows (rejects: {reasons(counts)}; "
        f"unreadable first: {'; '.join(first)}); exclude what is not text, or raise the limit"
    )


def reasons(counts: dict[str, int]) -> str:
    """The rejects among a unit's counts, as `reason number, …`."""
    rejected = {key.removeprefix("rejected."): n for key, n in counts.items() if key.startswith("rejected.")}
    return ", ".join(f"{reason} {n}" for reason, n in rejected.items()) or "none"

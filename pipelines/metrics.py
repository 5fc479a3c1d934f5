"""Beam's metrics by step, where the runner has them: what was done, and how long its tasks took.

A receipt is counted when it is written: `documents`, `tokens`, `rejects`, `drops`, `bytes_read`, `bytes_written`. Every
task adds its milliseconds to the distribution `task_ms`. They are a view of one attempt, for `run.json` and the eye: a
retried task may count twice, a killed attempt's counts are lost. Committed files are the truth.

Nothing here loads Beam: without a `sink`, as in `plan`, nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.stages import Receipt

NAMESPACE = "tokenmill"
TASK_MS = "task_ms"
sink: Callable[[str, int], None] | None = None
"""Adds to a counter of the task under way; set in every process that carries out tasks for Beam."""
_collected: dict[str, dict[str, Any]] = {}


def count(receipt: Receipt) -> None:
    """Add what a receipt says to the counters of the step that writes it."""
    if sink is None:
        return
    counts = receipt.unit.counts
    rejects = sum(n for key, n in counts.items() if key.startswith("rejected."))
    values = {
        # ingest counts what came in, packing and sampling what they have, tokenize what it kept and rejected.
        "documents": counts.get("documents_in", counts.get("documents", counts.get("kept", 0) + rejects)),
        "tokens": sum(n for key, n in counts.items() if key.split(".")[0] in _TOKENS),
        "rejects": rejects,
        "drops": sum(n for key, n in counts.items() if key.startswith("dropped.")),
        "bytes_read": sum(read.size for read in receipt.unit.inputs),
        "bytes_written": sum(file.bytes for file in receipt.files),
    }
    for name, value in values.items():
        if value:
            sink(name, value)


_TOKENS = ("tokens", "in_records", "repeated")  # of tokenize, and of shards by component


def collect(result: Any) -> None:
    """Keep what a finished pipeline's result has, by step; of a runner without metrics, nothing."""
    try:
        found = result.metrics().query()
    except NotImplementedError:  # Dask
        return
    for one in found["counters"]:
        if one.key.metric.namespace == NAMESPACE:
            step = _collected.setdefault(_step(one.key.step), {})
            step[one.key.metric.name] = step.get(one.key.metric.name, 0) + one.result
    for one in found["distributions"]:
        if one.key.metric.namespace == NAMESPACE:
            values = {"tasks": one.result.count, "sum": one.result.sum, "min": one.result.min, "max": one.result.max}
            _collected.setdefault(_step(one.key.step), {})[one.key.metric.name] = values


def _step(label: str) -> str:
    """A step's name without what a runner puts around it."""
    return label.rsplit("/", 1)[-1]


def take() -> dict[str, dict[str, Any]]:
    """What was collected since the last call, by step."""
    taken = dict(sorted(_collected.items()))
    _collected.clear()
    return taken


def sentence(steps: Iterable[dict[str, Any]]) -> str:
    """A stage's steps in a line: counts, and the time of its tasks. '' where there is nothing."""
    steps = list(steps)
    parts: list[str] = []
    for name in ("documents", "tokens", "rejects", "drops"):
        if value := sum(step.get(name, 0) for step in steps):
            parts.append(f"{value:,} {name}")
    for name, verb in (("bytes_read", "read"), ("bytes_written", "written")):
        if value := sum(step.get(name, 0) for step in steps):
            parts.append(f"{value / 1e6:,.1f} MB {verb}")
    times = [step[TASK_MS] for step in steps if TASK_MS in step]
    if tasks := sum(time["tasks"] for time in times):
        mean, longest = sum(time["sum"] for time in times) / tasks, max(time["max"] for time in times)
        parts.append(f"{tasks:,} tasks of {mean / 1000:.2f} s on average, {longest / 1000:.2f} s at most")
    return ", ".join(parts)

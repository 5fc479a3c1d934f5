"""The units a cost is measured on: equally many bytes of each component, or all it has; at least one unit.

Not in proportion: of a component that is scarce there would be next to nothing, and it is the one that bounds the order
and the tokenizer's sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.plan import Plan, Unit
from schemas.config import Config
from schemas.permutation import key64


@dataclass(frozen=True)
class Sample:
    """plan: of the chosen units, numbered anew. factors: all bytes of a component / chosen ones; at least 1.

    largest_unit: bytes of the largest of all units.
    """

    plan: Plan
    factors: dict[str, float]
    chosen_bytes: int
    all_bytes: int
    largest_unit: int


def unit_bytes(whole: Plan, config: Config) -> list[int]:
    """Input bytes of each unit. A Parquet file's slices count row groups: they have its bytes in proportion."""
    parquet = [config.components[unit.component].sources[unit.source].format == "parquet" for unit in whole.units]
    groups: dict[tuple[str, int, str], int] = {}
    for unit, grouped in zip(whole.units, parquet, strict=True):
        for part in unit.slices if grouped else ():
            file = (unit.component, unit.source, part.path)
            groups[file] = max(groups.get(file, 1), part.stop)
    return [
        sum(
            part.size * max(part.stop - part.start, 0) // groups[unit.component, unit.source, part.path]
            if grouped
            else part.stop - part.start
            for part in unit.slices
        )
        for unit, grouped in zip(whole.units, parquet, strict=True)
    ]


def choose(whole: Plan, config: Config, wanted: int) -> Sample:
    """A sample of about `wanted` bytes, the same for the same plan and seed."""
    sizes, seed = unit_bytes(whole, config), config.seed
    total = sum(sizes)
    component_bytes = {name: sum(sizes[task] for task in tasks) for name, tasks in whole.by_component.items()}
    shares: dict[str, float] = {}
    for name in sorted(component_bytes, key=lambda name: component_bytes[name]):  # what the scarce lack, the others get
        left = wanted - sum(shares.values())
        shares[name] = min(component_bytes[name], left / (len(component_bytes) - len(shares)))
    units: list[Unit] = []
    factors: dict[str, float] = {}
    chosen_bytes = 0
    for name, tasks in whole.by_component.items():
        picked = _pick(tasks, sizes, seed, shares[name])
        units += [replace(whole.units[task], unit=number) for number, task in enumerate(picked)]
        own = sum(sizes[task] for task in picked)
        factors[name] = max(1.0, component_bytes[name] / max(own, 1))
        chosen_bytes += own
    return Sample(Plan(tuple(units), whole.roots, whole.earlier), factors, chosen_bytes, total, max(sizes, default=0))


def _pick(tasks: Sequence[int], sizes: Sequence[int], seed: int, share: float) -> list[int]:
    """Tasks in keyed order until their bytes reach `share`; one that is larger than that by itself only if all are."""
    fitting = [task for task in tasks if sizes[task] <= max(share, 1)] or [min(tasks, key=lambda task: sizes[task])]
    picked: list[int] = []
    have = 0
    for task in sorted(fitting, key=lambda task: key64(f"tokenmill plan {seed} {task}")):
        picked.append(task)
        have += sizes[task]
        if have >= share:
            break
    return sorted(picked)

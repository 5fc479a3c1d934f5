"""From the sample's measurements to the whole corpus, by proportion.

What is of one component is multiplied by that component's factor (its bytes / its sampled bytes), what is of all by the
corpus's. The tokenizer is not: its sample is of so many units, and training is one process's work on
`tokenizer.sample_characters` characters. Pairs of near-duplicates grow faster than the corpus, so the steps after
`candidates` are a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.estimate.measure import Measured, Results
from pipelines.estimate.sample import Sample
from pipelines.tokenizer.job import SAMPLED_UNITS
from schemas.config import Config
from schemas.mixture import integer_weights
from schemas.record import record_size, token_dtype
from schemas.sizes import Sizes, plan_sizes

UTILISATION = 0.7
"""Share of the machines' time that is work of the steps: the rest are starts, the ends of stages, and waiting."""
SHARD_COPIES = 3  # a worker that writes a shard holds its blocks, its rows and a part of them framed
SAMPLE, TRAIN = "sample", "train"  # the tokenizer stage's steps


@dataclass(frozen=True)
class StepCost:
    """cpu_hours: of one vCPU; moved_bytes: between workers."""

    stage: str
    step: str
    cpu_hours: float
    moved_bytes: int


@dataclass(frozen=True)
class ViewCost:
    """A view. V lanes, G groups, R rows; shards: of both splits; bytes: of their files.

    hosts_fit: whether that many hosts can read it; lanes_for_hosts: a `shard.lanes` near the config's with which they
    can.
    """

    sequence_length: int
    lanes: int
    groups: int
    rows: int
    records: int
    tokens: int
    shards: int
    shard_bytes: int
    bytes: int
    hosts_fit: bool
    lanes_for_hosts: int


@dataclass(frozen=True)
class Cost:
    """What a run would cost. Times are those of processors like this machine's.

    serial_hours: of work that one process must do; machines: with `vcpus` each, for `hours`; None when no number is
    enough. worker_bytes: memory of a worker process. stored_bytes: documents, drops and tokens, beside the views.
    """

    units: int
    input_bytes: int
    sampled_bytes: int
    largest_unit_bytes: int
    vocab_size: int
    documents: int
    kept: int
    tokens: int
    steps: tuple[StepCost, ...]
    serial_hours: float
    cpu_hours: float
    hours: float
    vcpus: int
    machines: int | None
    worker_bytes: int
    stored_bytes: int
    hosts: int
    views: tuple[ViewCost, ...]


def cost(config: Config, units: int, sample: Sample, found: Results, hosts: int, hours: float, vcpus: int) -> Cost:
    """The cost of a whole run of `units` units.

    hosts: that read the views later; hours: for the run; vcpus: of one machine.
    """
    overall = max(1.0, sample.all_bytes / max(sample.chosen_bytes, 1))
    trained = _training_characters(config, sample, found)
    steps = tuple(_step(step, sample, overall, trained / max(found.sampled_characters, 1)) for step in found.steps)
    total = sum(step.cpu_hours for step in steps)
    serial = sum(step.cpu_hours for step in steps if step.step == TRAIN)
    left = hours - serial
    machines = math.ceil(max(total - serial, 0.0) / (left * vcpus * UTILISATION)) if left > 0 else None
    views = tuple(_view(config, length, sample, found, hosts) for length in config.shard.sequence_lengths)
    stored = sum(
        file.bytes * sample.factors[name] for (_, name), whole in found.manifests.items() for file in whole.files
    )
    largest = max((view.shard_bytes for view in views), default=0)
    return Cost(
        units=units,
        input_bytes=sample.all_bytes,
        sampled_bytes=sample.chosen_bytes,
        largest_unit_bytes=sample.largest_unit,
        vocab_size=found.vocab_size,
        documents=_scaled(found, sample, "documents", "documents_in"),
        kept=_scaled(found, sample, "tokens", "kept"),
        tokens=_scaled(found, sample, "tokens", "tokens"),
        steps=steps,
        serial_hours=serial,
        cpu_hours=total,
        hours=hours,
        vcpus=vcpus,
        machines=None if machines is None else max(1, machines),
        worker_bytes=found.peak + SHARD_COPIES * largest,
        stored_bytes=round(stored),
        hosts=hosts,
        views=views,
    )


def _step(step: Measured, sample: Sample, overall: float, training: float) -> StepCost:
    if step.name == TRAIN:
        return StepCost(step.stage, step.name, sum(step.seconds.values()) * training / 3600, 0)
    factors = dict(sample.factors)
    if step.name == SAMPLE:  # of the units that are sampled, not of all
        for name, tasks in sample.plan.by_component.items():
            factors[name] = min(factors[name], max(1.0, SAMPLED_UNITS / max(len(tasks), 1)))
    seconds = sum(spent * factors.get(name, overall) for name, spent in step.seconds.items())
    return StepCost(step.stage, step.name, seconds / 3600, round(step.moved * overall))


def _scaled(found: Results, sample: Sample, folder: str, key: str) -> int:
    return round(
        sum(found.manifests[folder, name].counts.get(key, 0) * factor for name, factor in sample.factors.items())
    )


def _training_characters(config: Config, sample: Sample, found: Results) -> float:
    """What the tokenizer will be trained on: as `tokenizer.job.quotas`, bounded by the scarcest component."""
    have = {
        name: found.manifests["documents", name].counts["characters"] * factor
        for name, factor in sample.factors.items()
    }
    bounds = (have[name] / float(component.weight) for name, component in config.components.items() if component.weight)
    return min([config.tokenizer.sample_characters, *bounds])


def _view(config: Config, length: int, sample: Sample, found: Results, hosts: int) -> ViewCost:
    names = list(config.components)
    ids = found.vocab_size if config.tokenizer.model is not None else config.tokenizer.vocab_size
    record = record_size(length, token_dtype(ids))
    sizes = _sizes(config, names, _sequences(found, sample, length, "train"), record, config.shard.lanes)
    held_out = _sequences(found, sample, length, "validation")
    a_shard = max(1, config.shard.shard_bytes // record)
    validation_shards = sum(-(-count // a_shard) for count in held_out)
    records = sizes.lanes * sizes.groups * sizes.rows
    lanes = config.shard.lanes
    return ViewCost(
        sequence_length=length,
        lanes=sizes.lanes,
        groups=sizes.groups,
        rows=sizes.rows,
        records=records,
        tokens=records * length,
        shards=sizes.lanes * sizes.groups + validation_shards,
        shard_bytes=sizes.rows * record,
        bytes=(records + sum(held_out)) * record,
        hosts_fit=sizes.lanes % hosts == 0,
        lanes_for_hosts=max(1, round(lanes / hosts)) * hosts,
    )


def _sequences(found: Results, sample: Sample, length: int, split: str) -> list[int]:
    counts = found.sequences[length]
    return [round(counts[name].get(f"{split}_sequences", 0) * factor) for name, factor in sample.factors.items()]


def _sizes(config: Config, names: list[str], available: list[int], record: int, lanes: int) -> Sizes:
    components = config.components.values()
    return plan_sizes(
        available,
        integer_weights([component.weight for component in components]),
        [component.max_repeats for component in components],
        lanes=lanes,
        record_bytes=record,
        shard_bytes=config.shard.shard_bytes,
        names=names,
    )

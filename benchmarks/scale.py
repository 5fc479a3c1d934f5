"""What data preparation is at another size: `python benchmarks/scale.py PLAN.json [--tokens 14.8e12]`.

PLAN.json is what `python -m pipelines plan CONFIG --json` printed. All that `plan` takes for proportional is multiplied
by TOKENS / its tokens; the sample and training of the tokenizer are not, and a view uses every sequence once. From
that follow, by the formulas of the code itself, how many ranges and blocks each exchange has in both forms, the sizes
of the order for several numbers of hosts, and machines for deadlines. Nothing is run; it is arithmetic on one
measurement, and as good as that.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that a checkout need not be installed

from pipelines.dedup.records import BAND, member
from pipelines.dedup.steps import size_ranges
from pipelines.estimate.cost import SAMPLE, TRAIN, UTILISATION
from pipelines.tokenizer.job import SAMPLED_UNITS
from schemas.config import Config, parse_config
from schemas.order import integer_weights, plan_sizes
from schemas.record import record_size, token_dtype

NAMES, WEIGHTS = ("code", "text"), ("0.87", "0.13")
HOSTS = ((48, 48), (64, 64), (240, 240), (256, 256))  # (lanes, hosts)
DEADLINES = (6, 24, 72)


@dataclass(frozen=True)
class Exchange:
    """An exchange at the size asked for. moved: bytes; items: what may go to different destinations, of all units."""

    name: str
    sources: int
    destinations: int
    moved: float
    items: float

    @property
    def blocks(self) -> float:
        """Non-empty blocks, at most: balls (a source's items) thrown into bins (destinations)."""
        each = self.items / self.sources
        return self.sources * self.destinations * -math.expm1(-each / self.destinations)


def exchanges(
    found: dict[str, Any], factor: float, units: int, shards: int, sequences: float, config: Config
) -> list[Exchange]:
    """Every exchange of dedup and of one view."""
    moved = {step["step"]: step["moved_bytes"] * factor for step in found["steps"]}
    documents = found["documents"] * factor
    ranges = size_ranges(round(documents), config.dedup.bands * BAND.itemsize)
    record = member(config.dedup.permutations).itemsize
    clusters = max(1, math.ceil(moved["decided"] / (32 << 20)))
    length = found["views"][0]["sequence_length"]
    view_bytes = sequences * record_size(length, token_dtype(found["vocab_size"]))
    return [
        Exchange("copies", units, ranges, moved["copies"], documents),
        Exchange("told", ranges, units, moved["told"], moved["told"] / 16),
        Exchange("candidates", units, ranges, moved["candidates"], documents * config.dedup.bands),
        Exchange("asked", ranges, units, moved["asked"], moved["asked"] / 16),
        Exchange("verified", units, units, moved["verified"], moved["verified"] / record),
        Exchange("members", 1, units, moved["members"], moved["members"] / 16),
        Exchange("decided", units, clusters, moved["decided"], moved["decided"] / record),
        Exchange("resolved", clusters, units, moved["resolved"], moved["resolved"] / 29),
        Exchange("drops", units, units, moved["drops"], moved["drops"] / 29),
        Exchange(f"shards {length}", units, shards, view_bytes, sequences),
    ]


def show_steps(found: dict[str, Any], factor: float) -> float:
    """The work by stage; returns vCPU-hours of all that many machines can do."""
    print("| stage | step | vCPU-hours | share |\n|---|---|---|---|")
    sampled = max(1.0, len(NAMES) * SAMPLED_UNITS / found["units"])
    factors = {TRAIN: 1.0, SAMPLE: min(factor, sampled)}
    hours = {
        (step["stage"], step["step"]): step["cpu_hours"] * factors.get(step["step"], factor) for step in found["steps"]
    }
    whole = sum(hours.values())
    for (stage, step), spent in hours.items():
        print(f"| {stage} | {step} | {spent:,.3g} | {spent / whole:.1%} |")
    print(f"| all | | {whole:,.0f} | |\n")
    return whole - sum(spent for (_, step), spent in hours.items() if step == TRAIN)


def show_exchanges(rows: list[Exchange]) -> None:
    """Both forms of every exchange."""
    print("| exchange | from × to | moved | a destination | `files`: ranges, index | `runner`: elements |")
    print("|---|---|---|---|---|---|")
    for one in rows:
        ranges = one.sources * one.destinations
        index = 8 * (one.destinations + 1) * one.sources
        print(
            f"| {one.name} | {one.sources:,} × {one.destinations:,} | {_bytes(one.moved)} | "
            f"{_bytes(one.moved / one.destinations)} | {ranges:.1e}, {_bytes(index)} | {one.blocks:.1e} |"
        )
    print()


def show_order(tokens: float, length: int, record: int, shard_bytes: int) -> int:
    """Sizes of the order by hosts; returns the shards with the most lanes."""
    weights = integer_weights(list(WEIGHTS))
    sequences = tokens / (length + 1)
    available = [round(sequences * weight / sum(weights)) for weight in weights]
    print("| hosts H | lanes V | rows R | groups G | records | shards | a shard | lanes a host |\n|" + "---|" * 8)
    shards = 0
    for lanes, hosts in HOSTS:
        sizes = plan_sizes(
            available,
            weights,
            [1, 1],
            lanes=lanes,
            record_bytes=record,
            shard_bytes=shard_bytes,
            names=NAMES,
        )
        shards = sizes.lanes * sizes.groups
        print(
            f"| {hosts} | {sizes.lanes} | {sizes.rows:,} | {sizes.groups:,} | {sizes.records:,} | {shards:,} | "
            f"{_bytes(sizes.rows * record)} | {sizes.lanes // hosts} |"
        )
    print()
    return shards


def _bytes(value: float) -> str:
    """Bytes with a unit of thousands."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"


def main() -> None:
    """Print everything as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="the output of `python -m pipelines plan CONFIG --json`")
    parser.add_argument("--tokens", type=float, default=14.8e12)
    parser.add_argument("--unit-bytes", type=int, default=48 << 20, help="ingest.unit_bytes (default: 48 MiB)")
    parser.add_argument("--shard-bytes", type=int, default=256 << 20, help="shard.shard_bytes (default: 256 MiB)")
    parser.add_argument("--vcpus", type=int, default=16, help="of a machine (default: 16)")
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(arguments.plan.read_bytes())
    factor = arguments.tokens / found["tokens"]
    length = found["views"][0]["sequence_length"]
    record = record_size(length, token_dtype(found["vocab_size"]))
    source = {"path": "unused", "format": "jsonl"}
    components = {name: {"weight": weight, "sources": [source]} for name, weight in zip(NAMES, WEIGHTS, strict=True)}
    config = parse_config({"components": components}, "defaults")
    units = math.ceil(found["input_bytes"] * factor / arguments.unit_bytes)
    print(
        f"{arguments.tokens:.3g} tokens are {factor:,.0f} times the plan's {found['tokens']:,}: "
        f"{_bytes(found['input_bytes'] * factor)} of input, {found['documents'] * factor:.3g} documents, {units:,} "
        f"units of {arguments.unit_bytes >> 20} MiB; stored beside the views {_bytes(found['stored_bytes'] * factor)}, "
        f"a view of {length} {_bytes(arguments.tokens / (length + 1) * record)}\n"
    )
    parallel = show_steps(found, factor)
    shards = show_order(arguments.tokens, length, record, arguments.shard_bytes)
    show_exchanges(exchanges(found, factor, units, shards, arguments.tokens / (length + 1), config))
    for hours in DEADLINES:
        machines = math.ceil(parallel / ((hours - found["serial_hours"]) * arguments.vcpus * UTILISATION))
        print(f"{hours} hours: {machines:,} machines of {arguments.vcpus} vCPUs")


if __name__ == "__main__":
    main()

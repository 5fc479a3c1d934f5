"""`plan CONFIG`: measure on a sample, scale, print."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from pipelines import plan
from pipelines.estimate.cost import TRAIN, UTILISATION, Cost, cost
from pipelines.estimate.measure import measure, warm_up
from pipelines.estimate.sample import choose
from schemas.config import Config
from schemas.errors import Refused


def run_plan(config: Config, hosts: int, hours: float, vcpus: int, sample_bytes: int, as_json: bool) -> int:
    """Print what a run would cost. Returns the exit code.

    hosts: that will read the views; hours: for the run; vcpus: of a machine; sample_bytes: of input to measure on.

    Raises:
        Refused: an argument is out of range, or a source cannot be listed.
        TokenmillError: a stage cannot be done on the sample.
    """
    for name, value in (("hosts", hosts), ("hours", hours), ("vcpus", vcpus), ("sample", sample_bytes)):
        if value <= 0:
            raise Refused(f"--{name} must be above 0")
    # Earlier runs would have to be read whole; they add no units, and what they cost is not part of the estimate.
    config = config.model_copy(update={"dedup": config.dedup.model_copy(update={"against": ()})})
    whole = plan.make_plan(config)
    sample = choose(whole, config, sample_bytes)
    with tempfile.TemporaryDirectory(prefix="tokenmill-plan-") as directory:
        warm_up(config, choose(whole, config, 1), f"{directory}/warm")
        results = measure(config, sample, f"{directory}/sample")
    found = cost(config, len(whole.units), sample, results, hosts, hours, vcpus)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        _print(config, found)
    return 0


def _print(config: Config, found: Cost) -> None:
    console = Console(highlight=False, soft_wrap=True)
    share = found.sampled_bytes / max(found.input_bytes, 1)
    console.print(
        f"measured on {_size(found.sampled_bytes)} of {_size(found.input_bytes)} ({share:.2%}), else by proportion\n"
        f"{found.units:,} units, the largest {_size(found.largest_unit_bytes)}; {_count(found.documents)} documents, "
        f"{_count(found.kept)} kept, {_count(found.tokens)} tokens"
    )
    if config.tokenizer.model is None and found.vocab_size != config.tokenizer.vocab_size:
        console.print(
            f"the sample supports a vocabulary of {found.vocab_size:,} only, so there will be fewer tokens; "
            f"a larger --sample says more"
        )
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "step", "vCPU-hours", "shuffled"):
        table.add_column(name, justify="left" if name in ("stage", "step") else "right", no_wrap=True)
    before = ""
    for step in found.steps:
        moved = _size(step.moved_bytes) if step.moved_bytes else ""
        table.add_row("" if step.stage == before else step.stage, step.step, _hours(step.cpu_hours), moved)
        before = step.stage
    table.add_row("all", "", _hours(found.cpu_hours), _size(sum(step.moved_bytes for step in found.steps)))
    console.print(table)
    serial = f"of them {_hours(found.serial_hours)} are one process's ({TRAIN}); " if found.serial_hours else ""
    if found.machines is None:
        console.print(f"{serial}no number of machines does it in {found.hours:g} h; lower tokenizer.sample_characters")
    else:
        console.print(
            f"{serial}{found.machines:,} machines of {found.vcpus} vCPUs do it in {found.hours:g} h, "
            f"if {UTILISATION:.0%} of their time is work"
        )
    console.print(
        f"memory: {_size(found.worker_bytes)} a worker process, {_size(found.worker_bytes * found.vcpus)} a machine "
        f"with one a vCPU\nstored: {_size(found.stored_bytes)} of documents and tokens, "
        f"{_size(sum(view.bytes for view in found.views))} of shards"
    )
    console.print(_views(found))
    for view in found.views:
        if not view.hosts_fit:
            console.print(
                f"view {view.sequence_length}: {found.hosts} hosts cannot share {view.lanes} lanes; set shard.lanes to "
                f"{view.lanes_for_hosts}, or another multiple of the hosts"
            )


def _views(found: Cost) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("view", "V", "R", "G", "records", "tokens", "shards", "a shard", "bytes", "hosts"):
        table.add_column(name, justify="right", no_wrap=True)
    for view in found.views:
        table.add_row(
            str(view.sequence_length), str(view.lanes), f"{view.rows:,}", f"{view.groups:,}", _count(view.records),
            _count(view.tokens), f"{view.shards:,}", _size(view.shard_bytes), _size(view.bytes),
            f"{found.hosts}" if view.hosts_fit else f"not {found.hosts}",
        )  # fmt: skip
    return table


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"


def _count(count: float) -> str:
    for unit in ("", " k", " M", " G"):
        if count < 10_000:
            return f"{count:,.0f}{unit}"
        count /= 1000
    return f"{count:,.0f} T"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} PB"

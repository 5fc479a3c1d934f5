"""`validate` and `status`: what a config would read, and how far a run is."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipelines import plan, stages, state
from pipelines.jobs import Run
from pipelines.run import RUN_FACTS, read_config
from pipelines.tokenizer.job import check_given_model
from schemas import storage
from schemas.config import Config, load_config
from schemas.errors import Refused
from schemas.lock import is_stale, owner_of
from schemas.manifest import STAGES


def validate(path: str) -> int:
    """Check a config, list its sources, and print what a run would read. Returns the exit code."""
    config = load_config(path)
    check_given_model(config)
    fresh = plan.make_plan(config)
    console = Console(highlight=False)
    console.print(_sources(config, fresh))
    units = len(fresh.units)
    lengths = ", ".join(map(str, config.shard.sequence_lengths))
    model = config.tokenizer.model or f"a tokenizer of {config.tokenizer.vocab_size} ids to be trained"
    console.print(f"{path} is valid: {units} units, sequence lengths {lengths}, {model}.")
    return 0


def _sources(config: Config, fresh: plan.Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("component", "weight", "source", "format", "files", "megabytes", "units", "refused"):
        table.add_column(
            name, justify="left" if name in ("component", "source", "format") else "right", overflow="fold"
        )
    for name, component in config.components.items():
        for index, source in enumerate(component.sources):
            units = [fresh.units[task] for task in fresh.by_component[name] if fresh.units[task].source == index]
            sizes = {slice_.path: slice_.size for unit in units for slice_ in unit.slices}
            refused = sum(len(unit.rejects) for unit in units)
            table.add_row(
                name, str(component.weight), source.path, source.format, f"{len(sizes):,}",
                f"{sum(sizes.values()) / 1e6:,.1f}", f"{len(units):,}", str(refused),
            )  # fmt: skip
    return table


def status(directory: str) -> int:
    """Print what of a run is done and what is next. Returns the exit code."""
    run = Run(directory.rstrip("/"), "")
    config = read_config(run)
    if storage.size_of(run.path(plan.PLAN)) is None:
        raise Refused(f"{directory}: the run was stopped before it had a plan; run the same command again")
    whole = plan.Plan(plan.read_units(run), {name: [] for name in config.components}, plan.read_earlier(run))
    due = state.due_stages(run, config, whole)
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "state", "of it"):
        table.add_column(name)
    for stage in STAGES:
        under_way = _under_way(run, stage)
        if stage not in due:
            table.add_row(stage, "done", _summary(run, config, stage))
        elif under_way:
            table.add_row(stage, "under way", f"{under_way} of {len(whole.units)} units committed")
        else:
            table.add_row(stage, "next" if stage == due[0] else "to do", "")
    console.print(table)
    owner = owner_of(directory)
    if owner is not None:
        holds = "held the directory and is gone" if is_stale(owner) else "holds the directory"
        console.print(f"run {owner['run_id']} (process {owner['pid']} on {owner['host']}) {holds}")
    if storage.size_of(run.path(RUN_FACTS)) is not None and not due:
        console.print(f"everything is done; {run.path(RUN_FACTS)} says how long it took")
    elif due:
        console.print(f"next: python -m pipelines run CONFIG --output {directory}")
    return 0


def _under_way(run: Run, stage: str) -> int:
    folders = [name for name in storage.names_in(run.work()) if name.startswith(f"{stage}-")]
    return sum(name.startswith("receipt-") for folder in folders for name in storage.names_in(run.work(folder)))


def _summary(run: Run, config: Config, stage: str) -> str:
    if stage == "shard":
        return "views " + ", ".join(map(str, config.shard.sequence_lengths))
    if stage == "tokenizer":
        return f"{stages.need_manifest(run, 'tokenizer').details['vocab_size']:,} ids"
    folder = {"ingest": "documents", "dedup": "dedup", "tokenize": "tokens"}[stage]
    found = stages.total(stages.need_manifest(run, folder, name).counts for name in config.components)
    if stage == "dedup":
        exact, near = found["dropped.exact_duplicate"], found["dropped.near_duplicate"]
        return f"{exact:,} exact and {near:,} near-duplicates dropped"
    rejected = sum(count for key, count in found.items() if key.startswith("rejected."))
    tokens = f", {found['tokens']:,} tokens" if stage == "tokenize" else ""
    return f"{found['kept']:,} documents kept, {rejected:,} rejected{tokens}"

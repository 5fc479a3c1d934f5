"""`run`: take a directory, check that it is this run's, do what is due, leave it clean."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

from pipelines import changes, plan, state
from pipelines.jobs import Run
from pipelines.progress import Progress
from pipelines.stages import FOLDERS
from pipelines.supervise import Supervisor
from pipelines.tokenizer.job import check_given_model
from schemas import storage
from schemas.config import Config, parse_yaml
from schemas.errors import Refused
from schemas.lock import Lock
from schemas.manifest import STAGES, Stage

CONFIG = "config.yaml"
RUN_FACTS = "run.json"


def run(
    config: Config,
    directory: str,
    stages: Sequence[Stage] = STAGES,
    replace_from: Stage | None = None,
    beam_options: Sequence[str] = (),
    progress: Progress | None = None,
) -> bool:
    """Do what is due of `stages` in `directory`; True when there was anything to do.

    Raises:
        Refused: the directory belongs to another run, config or listing; nothing was written.
        TokenmillError: a stage failed; what was committed stays and the same call goes on from there.
    """
    progress = progress or Progress()
    options = list(beam_options)
    directory = directory.rstrip("/") if "://" in directory else os.path.abspath(directory)
    if options:
        from pipelines.runner import check_cluster, check_options  # noqa: PLC0415 - loads Beam

        check_options(options)
        check_cluster(options, directory, config)
    shown = os.fsencode(directory).decode("utf-8", "backslashreplace")
    if shown != directory:
        raise Refused(f"{shown}: the path is not UTF-8, which Parquet files need; give another --output")
    if replace_from is not None and replace_from not in stages:
        raise Refused(f"--replace-from {replace_from} would delete what --stages {','.join(stages)} leaves undone")
    _refuse_own_source(directory, config)
    check_given_model(config)
    fresh = plan.make_plan(config)
    this = Run(directory, secrets.token_hex(4))
    _check_directory(this, config, fresh, replace_from)
    lock = Lock(directory, this.run_id)
    lock.acquire()
    try:
        _check_directory(this, config, fresh, replace_from)  # again: another run may have come in between
        _prepare(this, config, fresh, replace_from)
        due = [stage for stage in state.due_stages(this, config, fresh) if stage in stages]
        if not due:
            state.check_files(this, config)
            storage.remove_tree(this.work())
            return False
        started = time.time()
        supervisor = Supervisor(this, config, due, options, progress)
        try:
            supervisor.run()
        except BaseException:
            progress.abandon()
            raise
        storage.remove_tree(this.work())
        _write_facts(this, config, fresh, options, supervisor.facts, started)
        driver, worker = supervisor.facts["peak_driver_bytes"], supervisor.facts["peak_worker_bytes"]
        progress.note(
            f"done in {time.time() - started:.0f} s, at most {driver / 1e6:.0f} MB of memory in the driver"
            + (f", {worker / 1e6:.0f} MB in a worker" if worker else "")
            + f"; python -m loader inspect {directory} shows what there is"
        )
        return True
    finally:
        storage.remove_temporaries(directory)
        lock.release()


def read_config(this: Run) -> Config:
    """The config a directory's run was made with. Raises Refused when there is none."""
    try:
        text = storage.read_bytes(this.path(CONFIG))
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(f"{this.directory}: no run here (it has no {CONFIG})") from None
    return parse_yaml(text, this.path(CONFIG))


def _refuse_own_source(directory: str, config: Config) -> None:
    """Refuse a directory that lies in a source which is read whole."""
    for name, component in config.components.items():
        for source in component.sources:
            remote = not storage.is_local(source.path)
            folder = source.path.rstrip("/") if remote else os.path.abspath(source.path)
            whole = source.format == "files" and "**" in source.include and (remote or os.path.isdir(folder))
            if whole and directory.startswith(f"{folder}/"):
                raise Refused(
                    f"{directory}: lies in {source.path}, a source of components.{name}, so the run would read "
                    f"what it wrote; give an --output elsewhere, or say with `include` what to read"
                )


def _check_directory(this: Run, config: Config, fresh: plan.Plan, replace_from: Stage | None) -> None:
    """Refuse a directory that holds something else, or another config or listing than this run's."""
    if this.directory in config.dedup.earlier().values():
        raise Refused(f"{this.directory}: cannot be --output and one of dedup.against at once; give another --output")
    if storage.size_of(this.path(CONFIG)) is None:
        there = storage.names_in(this.directory) - {".lock", ".work"}
        if {name for name in there if not name.startswith(storage.TEMPORARY)}:
            raise Refused(
                f"{this.directory}: holds files that are no run's ({min(there)}, …); give an empty or new --output"
            )
        return
    old = read_config(this)
    keys = changes.changed_keys(old, config)
    lines = [f"  {key}: {a!r} -> {b!r}" for key, a, b in keys]
    affected: list[Stage] = [changes.first_affected([key for key, _, _ in keys])] if keys else []
    if storage.size_of(this.path(plan.PLAN)) is not None:
        listing = plan.difference(plan.read_units(this), fresh.units)
        if listing is not None:
            lines.append(f"  the inputs: {listing}")
            affected.append("ingest")
        if plan.read_earlier(this) != fresh.earlier:
            lines.append("  dedup.against: other earlier runs, or they were made again with other results")
            affected.append("dedup")
    if not affected:
        outdated = state.outdated_stage(this, config, fresh)
        if outdated is None or (replace_from is not None and STAGES.index(replace_from) <= STAGES.index(outdated)):
            return
        raise Refused(
            f"{this.directory}: {outdated} was done here by other versions of tokenmill or of what it stands on (its "
            f"manifest lists them) and would come out otherwise today. Use those versions, give another --output, or "
            f"--replace-from {outdated} to make that stage and all after it again."
        )
    first = min(affected, key=STAGES.index)
    if replace_from is not None and STAGES.index(replace_from) <= STAGES.index(first):
        return
    raise Refused(
        f"{this.directory}: holds a run of another config or other inputs:\n" + "\n".join(lines) + "\n"
        f"The first stage affected is {first}. Give another --output, or --replace-from {first} to make that stage and "
        f"all after it again."
    )


def _prepare(this: Run, config: Config, fresh: plan.Plan, replace_from: Stage | None) -> None:
    """Clear what is to be made again, and write the config and the plan."""
    storage.remove_temporaries(this.directory, this.run_id)
    for name in storage.names_in(this.work()):
        if name.startswith(("sentence-", "traceback-")):
            storage.remove(this.work(name))
    if replace_from is not None:
        storage.remove_tree(this.work())
        for stage in STAGES[STAGES.index(replace_from) :]:
            storage.remove_tree(this.path(FOLDERS[stage]))
    this.commit_bytes(this.path(CONFIG), config.dump_yaml().encode())
    plan.write_plan(this, fresh)


def _write_facts(
    this: Run, config: Config, fresh: plan.Plan, options: list[str], facts: dict[str, Any], started: float
) -> None:
    """run.json: what varies between runs that make the same bytes."""
    content = {
        "run_id": this.run_id,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "roots": fresh.roots,
        "shuffle": config.shard.shuffle,
        "beam_options": options,
        "processors": os.cpu_count(),
        **facts,
    }
    this.commit_bytes(this.path(RUN_FACTS), (json.dumps(content, indent=1) + "\n").encode())

"""One attempt at a run, in a process of its own: `python -m pipelines.attempt`, started by the supervisor.

It reads what to do as one JSON line from standard input, runs the stages that are due, and reports as JSON lines on
standard output. It ends with its supervisor and with any of its workers (see `processes`); whatever was committed
stays, and the next attempt goes on from there.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import sys
from typing import Any

from pipelines import ingest, metrics, processes, tokenize, workers
from pipelines.dedup import job as dedup_job
from pipelines.jobs import Run
from pipelines.plan import read_plan
from pipelines.shard import job as shard_job
from pipelines.stages import Context
from pipelines.tokenizer import job as tokenizer_job
from schemas import storage
from schemas.config import parse_config
from schemas.errors import TokenmillError

RUNNERS = {
    "ingest": ingest.run,
    "dedup": dedup_job.run,
    "tokenizer": tokenizer_job.run,
    "tokenize": tokenize.run,
    "shard": shard_job.run,
}


def say(event: str, **facts: Any) -> None:
    """Report to the supervisor."""
    print(json.dumps({"event": event, **facts}), flush=True)


def main() -> int:
    """Run the stages; 0 when all are done, 1 when one failed (its reason has been reported)."""
    order = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    processes.end_group_when_input_closes()
    processes.end_group_when_a_worker_dies()
    logging.getLogger().setLevel(logging.ERROR)
    run = Run(order["directory"], order["run_id"])
    config = parse_config(order["config"], "config.yaml")
    context = Context(run, config, read_plan(run), order["options"], say)
    if not context.small and not any(word.startswith("--runner") for word in order["options"]):
        workers.prepare()  # of Beam's local runner
    for stage in order["stages"]:
        try:
            RUNNERS[stage](context)
        except Exception as error:
            say("failed", stage=stage, reason=_reason(run, error))
            return 1
        say("done", stage=stage, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, steps=metrics.take())
    return 0


def _reason(run: Run, error: Exception) -> str:
    """The sentence a worker or the driver gave; a traceback only for what nobody foresaw.

    A worker leaves its reason in a file (`Run.fail`). Where the disk is full there is none: then it is read out of
    Beam's message, which holds the worker's traceback as text.
    """
    names = sorted(storage.names_in(run.work()))
    for kind in ("sentence", "traceback"):
        for name in names:
            if name.startswith(f"{kind}-{run.run_id}-"):
                return storage.read_bytes(run.work(name)).decode()
    told = str(error).split(" [while running")[0]
    if isinstance(error, TokenmillError):
        return told
    found = re.search(r"schemas\.errors\.\w+: (.*)", told)
    return found[1] if found else f"{type(error).__name__}: {told}"


if __name__ == "__main__":
    sys.exit(main())

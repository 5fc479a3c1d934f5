"""A program that runs a training config again and again, killing it each time, until it has been killed often enough.

    python -m tests.trainer.training.killed CONFIG KILLS SEED

TensorFlow is loaded once and used only in forked children, so that a start takes half as long. Some kills come at any
moment of a start, the others from the first step on, at a random time within some steps and saves.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import trainer.training.loop
from trainer.training.config import RunConfig, load_run_config


class Child:
    """A forked run."""

    def __init__(self, config: RunConfig) -> None:
        self.pid = os.fork()
        self._code: int | None = None
        if self.pid == 0:
            try:
                trainer.training.loop.run(config)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)

    def poll(self, options: int = os.WNOHANG) -> int | None:
        """Its exit code, once it has one."""
        if self._code is None:
            found, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if found else None
        return self._code


def steps(config: RunConfig) -> int:
    path = Path(config.output) / "metrics.jsonl"
    return path.read_bytes().count(b'"kind": "step"') if path.exists() else 0


def kill_once(config: RunConfig, chance: random.Random) -> None:
    child = Child(config)
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 3))
    else:
        # What is there of steps that were not saved is cut off when the run begins; then the file grows.
        least = steps(config)
        while child.poll() is None and steps(config) <= least:
            least = min(least, steps(config))
            time.sleep(0.002)
        time.sleep(chance.expovariate(1 / 0.15))
    if child.poll() is not None:
        raise SystemExit(f"the run ended with {child.poll()} before its kill: give it more steps")
    os.kill(child.pid, signal.SIGKILL)
    child.poll(0)


def main() -> None:
    config, kills, seed = load_run_config(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    for _ in range(kills):
        kill_once(config, chance)
    raise SystemExit(Child(config).poll(0))


if __name__ == "__main__":
    main()

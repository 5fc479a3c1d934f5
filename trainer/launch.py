"""Local workers of one run: started, kept together, started again after a crash, and stopped by the same signals.

A worker that ends by itself takes the others with it, because none can go on alone; then all start again from the last
checkpoint. A config that is refused (exit code 2) is not tried again.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType

from pydantic import BaseModel

from schemas import yaml_config
from schemas.errors import Refused, TokenmillError
from trainer.checkpoint.config import CheckpointConfig, OutputFolder, stage_output
from trainer.checkpoint.load import steps

_REFUSED = 2
_LONGEST_PAUSE = 60.0
_GRACE = 30.0  # seconds the others have to end in, once one is lost
LAUNCHER = "TOKENMILL_LAUNCHER"


class Launcher:
    """Runs a command in `processes` local workers. command: such as `python -m trainer run`; checkpoints: the run's
    folders of them, or gs:// URLs, one a stage.

    restarts: how often in a row all are started again without a new checkpoint in between.
    """

    def __init__(self, processes: int, command: Sequence[str], checkpoints: Sequence[str], restarts: int) -> None:
        self._processes, self._command = processes, [*command]
        self._checkpoints, self._restarts = [*checkpoints], restarts
        self._workers: list[subprocess.Popen[bytes]] = []
        self._asked: int | None = None

    def run(self) -> int:
        """Until the run is done, was stopped by a signal, or cannot go on; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        failures, saved = 0, self._newest()
        while True:
            code = self._once()
            if code in (0, _REFUSED) or self._asked is not None:
                return code
            failures = 1 if self._newest() != saved else failures + 1
            saved = self._newest()
            if failures > self._restarts:
                raise TokenmillError(
                    f"{failures} attempts in a row ended without a new checkpoint (the last at step {saved[1]}); "
                    f"what they say is above. The same command goes on from there"
                )
            pause = min(2.0 ** (failures - 1), _LONGEST_PAUSE)
            print(f"starting all again in {pause:g} s, from step {saved[1]}", file=sys.stderr, flush=True)
            self._sleep(pause)
            if self._asked is not None:
                return code

    def _newest(self) -> tuple[int, int]:
        """(number of the folder that has the newest checkpoint, its step); (0, 0) where there is none."""
        saved = [(number, there[-1]) for number, folder in enumerate(self._checkpoints) if (there := steps(folder))]
        return max(saved, default=(0, 0))

    def _once(self) -> int:
        """Start all, and wait until all have ended; the exit code of the first that ended with another than 0."""
        addresses = _free_addresses(self._processes) if self._processes > 1 else []
        self._workers = [
            # In a session of its own: Ctrl-C reaches workers through the launcher alone, once.
            subprocess.Popen(self._command, env=self._environment(rank, addresses), start_new_session=True)
            for rank in range(self._processes)
        ]
        if self._asked is not None:
            self._send(self._asked)
        code, deadline = 0, float("inf")
        while True:
            running = None in [worker.poll() for worker in self._workers]
            if not code and (lost := self._lost()) is not None:
                rank, code = lost
                print(f"worker {rank} ended with {_ending(code)}", file=sys.stderr, flush=True)
                self._send(signal.SIGTERM)
                deadline = time.monotonic() + _GRACE
            if not running:
                return code
            if time.monotonic() > deadline:
                self._send(signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.1)

    def _lost(self) -> tuple[int, int] | None:
        """(rank, exit code) of a worker that has ended with another than 0; of one killed, rather than one it left."""
        lost = [(rank, worker.returncode) for rank, worker in enumerate(self._workers) if worker.returncode]
        return min(lost, key=lambda ended: ended[1], default=None)

    def _environment(self, rank: int, addresses: list[str]) -> dict[str, str]:
        environ = {**os.environ, LAUNCHER: str(os.getpid())}
        if addresses:
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
            environ["TF_CONFIG"] = json.dumps(task)
        return environ

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        self._send(number)

    def _send(self, number: int) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(number)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._asked is None and time.monotonic() < end:
            time.sleep(0.1)


class _Stage(BaseModel):
    name: str


class _Places(BaseModel):
    """What the launcher needs of a config; the workers check all of it."""

    output: OutputFolder
    checkpoints: CheckpointConfig = CheckpointConfig()
    stages: tuple[_Stage, ...] = ()


def launch(processes: int, config: str, data: str | None, output: str | None, restarts: int) -> int:
    """`python -m trainer launch`; the exit code. Raises Refused for what makes no sense."""
    if processes < 1 or restarts < 0:
        raise Refused(f"--processes {processes} --restarts {restarts}: give 1 or more, and 0 or more")
    places = yaml_config.load(_Places, config, {"output": output} if output is not None else {})
    command = [sys.executable, "-m", "trainer", "run", config]
    for option, value in (("--data", data), ("--output", output)):
        command += [option, value] if value is not None else []
    saves, output = places.checkpoints, places.output
    folders = [saves.of_stage(stage.name).below(stage_output(output, stage.name)) for stage in places.stages]
    return Launcher(processes, command, [saves.below(output), *folders], restarts).run()


def _free_addresses(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

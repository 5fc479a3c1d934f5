"""Twenty faults in one long run on two processes, without a person: what each costs, and what the run comes to.

    python benchmarks/faults.py VIEW [--folder DIR] [--every STEPS]

Trains twice on VIEW: undisturbed, and with a fault of `FAULTS` every 50 steps. Some are put into process 1
(benchmarks/injected.py), some come from outside: kills, frozen processes, damaged files. Workers are started by the
launcher; the launcher itself is started again when it ends, as a cluster's scheduler does it, with the same command.
Prints each fault's cost: the seconds from its coming until the run is `every` / 2 kept steps further, beyond what these
take undisturbed. DIR keeps both runs, and `faults.json` with all numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a checkout need not be installed

from schemas.yaml_config import dump_yaml  # noqa: E402
from trainer.checkpoint.load import steps as saved_steps  # noqa: E402
from trainer.launch import Launcher  # noqa: E402

BATCH, SAVED_EVERY, POLL = 16, 20, 0.05
INSIDE = {
    "a gradient is NaN": "gradient",
    "gradients are 1e6 times as large": "gradient",
    "a batch is one token again and again": "garbage",
    "a gradient is infinite": "gradient",
    "gradients of three batches in a row are as large": "gradient",
    "reading a batch takes 10 s": "pause",
    "a weight becomes NaN in memory": "weight",
    "an error is raised": "error",
    "reading a batch hangs": "pause",
}
FAULTS = [
    "process 0 is killed",
    "a gradient is NaN",
    "process 1 is killed",
    "gradients are 1e6 times as large",
    "SIGTERM",
    "a batch is one token again and again",
    "process 0 is killed in a save",
    "a gradient is infinite",
    "process 1 is frozen",
    "gradients of three batches in a row are as large",
    "a byte of the newest checkpoint flips, and a kill",
    "reading a batch takes 10 s",
    "a file of the newest checkpoint is cut, and a kill",
    "a weight becomes NaN in memory",
    "a file of the newest checkpoint is lost, and a kill",
    "a checkpoint cannot be written",
    "process 0 is frozen for 10 s",
    "an error is raised",
    "launcher and processes are killed",
    "reading a batch hangs",
]


class Run:
    """One training on two processes in a folder of its own, started again until it is done."""

    def __init__(self, view: str, folder: Path, steps: int, faults: dict[str, Any] | None) -> None:
        self.output, self.steps = folder / "out", steps
        self.told = folder / "told.jsonl"
        self.checkpoints = self.output / "checkpoints"
        folder.mkdir(parents=True)
        config = {
            "data": str(Path(view).resolve()),
            "output": str(self.output),
            "model": {"preset": "tiny"},
            "schedules": {
                "learning_rate": {
                    "kind": "cosine",
                    "peak": 2e-3,
                    "end": 2e-4,
                    "warmup_steps": 50,
                    "tokens": steps * BATCH * 256,
                },
                "batch_size": {"kind": "constant", "sequences": BATCH},
            },
            "mesh": {"data": 2, "timeout": 30, "heartbeat": 15},
            "stop": {"steps": steps},
            "validation": {"every": 250, "records": 256},
            "checkpoints": {"every": SAVED_EVERY, "keep": 4},
            "log_every": 100,
            "step_timeout": 180,  # the first step is traced meanwhile
        }
        (folder / "train.yaml").write_text(dump_yaml(config))
        given = {"rank": 1, "told": str(self.told), **(faults or {})}
        (folder / "faults.json").write_text(json.dumps(given))
        self._log = (folder / "log.txt").open("wb")
        self._folder, self._progress = folder, Progress(self.output / "metrics.jsonl")
        self.launcher: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def look(self) -> Progress:
        """Where the run stands; a launcher that has ended is started again."""
        if self.launcher is None or (self.launcher.poll() is not None and not self.done):
            code = 0 if self.launcher is None else self.launcher.returncode
            if code not in (0, -signal.SIGKILL):
                raise SystemExit(f"the launcher gave up with exit code {code}; {self._log.name} says why")
            command = [sys.executable, __file__, "--launch", str(self._folder)]
            self.launcher = subprocess.Popen(command, stdout=self._log, stderr=self._log)
            self.starts += 1
        self._progress.look()
        return self._progress

    @property
    def done(self) -> bool:
        """Whether the trained model is written."""
        return (self.output / "model/config.json").exists()

    def worker(self, rank: int) -> psutil.Process:
        """Waits for it, if the launcher is starting all again."""
        while True:
            assert self.launcher is not None
            found = psutil.Process(self.launcher.pid).children()
            if len(found) == 2:
                return sorted(found, key=lambda process: process.pid)[rank]
            time.sleep(POLL)

    def newest(self) -> Path:
        """Folder of the newest checkpoint."""
        return self.checkpoints / f"step-{saved_steps(str(self.checkpoints))[-1]:08d}"


class Progress:
    """A run's steps by its metrics. kept: steps in the weights now. highest: the most there ever were; at: when each
    number of kept steps was first reached.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self._applied: dict[int, bool] = {}
        self.step = self.kept = self.highest = 0
        self.at: dict[int, float] = {}

    def look(self) -> None:
        """Read what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._read:  # what was not saved is cut off
                self._read = 0
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            if line.startswith(b'{"kind": "step"'):
                record = json.loads(line)
                self.step = record["step"]
                self._applied[self.step] = record["applied"]
        self.kept = sum(applied for step, applied in self._applied.items() if step <= self.step)
        for kept in range(self.highest + 1, self.kept + 1):
            self.at[kept] = time.time()
        self.highest = max(self.highest, self.kept)


def outside(run: Run) -> dict[str, Callable[[], None]]:
    """What does each fault that comes from outside."""

    def kill(rank: int) -> None:
        run.worker(rank).kill()

    def kill_in_save() -> None:
        while not any(not (folder / "COMMIT.json").exists() for folder in run.checkpoints.glob("step-*")):
            time.sleep(0.001)
        kill(0)

    def damage(how: Callable[[Path], None]) -> None:
        how(max(run.newest().rglob("c/*"), key=lambda path: path.stat().st_size))
        kill(0)

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def freeze(rank: int, seconds: float | None) -> None:
        process = run.worker(rank)
        process.suspend()
        if seconds is not None:
            time.sleep(seconds)
            process.resume()

    def take_place() -> None:
        step = (run.look().step // SAVED_EVERY + 1) * SAVED_EVERY
        place = run.checkpoints / f"step-{step:08d}"
        place.write_text("taken")
        while run.look().step < step + 5:
            time.sleep(POLL)
        place.unlink()

    def terminate() -> None:
        assert run.launcher is not None
        run.launcher.terminate()
        run.launcher.wait()

    def power_cut() -> None:
        assert run.launcher is not None
        workers = psutil.Process(run.launcher.pid).children()
        for process in (run.launcher, *workers):
            process.send_signal(signal.SIGKILL)

    return {
        "process 0 is killed": lambda: kill(0),
        "process 1 is killed": lambda: kill(1),
        "SIGTERM": terminate,
        "process 0 is killed in a save": kill_in_save,
        "process 1 is frozen": lambda: freeze(1, None),
        "a byte of the newest checkpoint flips, and a kill": lambda: damage(flip),
        "a file of the newest checkpoint is cut, and a kill": lambda: damage(lambda path: os.truncate(path, 1000)),
        "a file of the newest checkpoint is lost, and a kill": lambda: damage(Path.unlink),
        "a checkpoint cannot be written": take_place,
        "process 0 is frozen for 10 s": lambda: freeze(0, 10),
        "launcher and processes are killed": power_cut,
    }


def inside(every: int) -> dict[str, Any]:
    """Fields of `injected.Faults`: those of `FAULTS` that are put into a process, at their steps' positions."""
    at = {name: (number + 1) * every * BATCH for number, name in enumerate(FAULTS)}
    row = at["gradients of three batches in a row are as large"]
    return {
        "gradients": {
            at["a gradient is NaN"]: math.nan,
            **dict.fromkeys([at["gradients are 1e6 times as large"], row, row + BATCH, row + 2 * BATCH], 1e6),
            at["a gradient is infinite"]: math.inf,
        },
        "garbage": [at["a batch is one token again and again"]],
        "pauses": {at["reading a batch takes 10 s"]: 10, at["reading a batch hangs"]: 10_000},
        "weights": [at["a weight becomes NaN in memory"]],
        "errors": [at["an error is raised"]],
    }


def disturb(run: Run, every: int) -> list[tuple[str, float, int]]:
    """To the end, with all faults; for each its name, when it came, and how many steps were kept then."""
    act, found = outside(run), []
    for number, name in enumerate(FAULTS):
        if name in INSIDE:
            # By its position: after batches that were stepped over, steps and positions no longer go together.
            position = (number + 1) * every * BATCH
            while not (told := [line for line in lines(run.told) if line["position"] == position]):
                run.look()
                time.sleep(POLL)
            before, kept = told[0]["time"], run.look().highest
        else:
            while run.look().step < (number + 1) * every:
                time.sleep(POLL)
            before, kept = time.time(), run.look().highest
            act[name]()
        found.append((name, before, kept))
        print(f"step {(number + 1) * every}: {name}", file=sys.stderr, flush=True)
        while run.look().highest < kept + every // 2:
            time.sleep(POLL)
    finish(run)
    return found


def finish(run: Run) -> None:
    """Wait until the run is done."""
    while run.look() and not run.done:
        time.sleep(POLL)
    assert run.launcher is not None
    run.launcher.wait()


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(plain: Run, disturbed: Run, came: list[tuple[str, float, int]], every: int) -> dict[str, Any]:
    """What both runs came to, and what each fault cost."""
    at = disturbed.look().at
    metrics = {
        "undisturbed": lines(plain.output / "metrics.jsonl"),
        "with faults": lines(disturbed.output / "metrics.jsonl"),
    }
    step = statistics.median(
        line["step_seconds"] + line["input_seconds"] for line in metrics["undisturbed"] if line["kind"] == "step"
    )
    ends = {}
    for name, found in metrics.items():
        (*_, performance) = (line for line in found if line["kind"] == "performance")
        (*_, validation) = (line for line in found if line["kind"] == "validation")
        ends[name] = {"productive": performance["productive"], "validation_loss": validation["loss"]}
    alerts: dict[str, int] = {}
    for line in lines(disturbed.output / "alerts.jsonl"):
        if line["state"] == "firing":
            alerts[line["kind"]] = alerts.get(line["kind"], 0) + 1
    kinds = [line["kind"] for line in metrics["with faults"]]
    return {
        "step_seconds": step,
        **ends,
        "starts": kinds.count("start"),
        "rollbacks": kinds.count("rollback"),
        "left_out": sum(not line.get("applied", True) for line in metrics["with faults"]),
        "quarantined": len(list(disturbed.checkpoints.glob("quarantined-*"))),
        "alerts": alerts,
        "faults": [
            {"fault": name, "seconds": at[kept + every // 2] - when - every // 2 * step} for name, when, kept in came
        ],
    }


def main() -> None:
    """Both runs, and the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("view", nargs="?", help="a view of 256 tokens, such as runs/demo/shards/256")
    parser.add_argument("--folder", help="keep the runs there; default: a temporary folder")
    parser.add_argument("--every", type=int, default=50, help="steps between two faults (default: %(default)s)")
    parser.add_argument("--launch", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.launch is not None:
        folder = Path(given.launch)
        command = [
            sys.executable,
            str(ROOT / "benchmarks/injected.py"),
            *(str(folder / name) for name in ("train.yaml", "faults.json")),
        ]
        raise SystemExit(Launcher(2, command, [str(folder / "out/checkpoints")], 5).run())
    if given.view is None or given.every < 2 * SAVED_EVERY:
        parser.error(f"give a view, and --every of {2 * SAVED_EVERY} or more")
    folder = Path(given.folder or tempfile.mkdtemp())
    steps = (len(FAULTS) + 2) * given.every
    plain = Run(given.view, folder / "undisturbed", steps, None)
    finish(plain)
    disturbed = Run(given.view, folder / "disturbed", steps, inside(given.every))
    came = disturb(disturbed, given.every)
    found = report(plain, disturbed, came, given.every)
    (folder / "faults.json").write_text(json.dumps(found, indent=1))
    print(f"a step takes {found['step_seconds']:.3f} s; {steps} steps")
    for name in ("undisturbed", "with faults"):
        print(
            f"{name:14} productive {found[name]['productive']:.1%}, "
            f"validation loss {found[name]['validation_loss']:.4f}"
        )
    print(
        f"{found['starts']} starts, {found['rollbacks']} rollbacks, {found['left_out']} steps left out, "
        f"{found['quarantined']} checkpoints put aside; alerts: {found['alerts']}"
    )
    for each in found["faults"]:
        print(f"{each['fault']:55} {each['seconds']:7.1f} s")
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

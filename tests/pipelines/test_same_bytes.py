"""Law 3: the same config and inputs give the same bytes, with any workers, either shuffle, and after any kills."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import ROOT, small_config
from tests.pipelines.tiny import command

VARIES = {"run.json", "report.html"}
KILLS = 10
TRIES = 5  # again, at a moment that the command was too fast for
STAGE_OF = {"documents": "ingest", "dedup": "dedup", "tokenizer": "tokenizer", "tokens": "tokenize", "shards": "shard"}


def contents(run: Path) -> dict[str, str]:
    """The sha256 of every file of a run but those that may vary; hidden files count, for none may be left."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in VARIES
    }


def run_whole(config: Path, output: Path, *options: str) -> dict[str, str]:
    made = subprocess.run(command(config, output, *options), cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return contents(output)


@pytest.fixture(scope="module")
def config(small_run: Path) -> Path:
    return small_run.parent / "config.yaml"


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(small_run: Path, config: Path, tmp_path: Path) -> None:
    assert run_whole(config, tmp_path / "run", "--direct_num_workers=2") == contents(small_run)


@pytest.mark.slow
def test_the_runners_shuffle_writes_the_same_bytes(small_run: Path, tmp_path: Path) -> None:
    content = small_config(small_run.parent / "corpus")
    content["shard"]["shuffle"] = "runner"  # type: ignore[index]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    assert run_whole(config, tmp_path / "run") == contents(small_run)
    assert run_whole(config, tmp_path / "processes", "--direct_num_workers=2") == contents(small_run)


def moments(seed: int) -> Iterator[tuple[str, str, float]]:
    """(folder, sign, delay): where a kill waits for which sign, and how long it hesitates then.

    A `temporary` is seen while a file is written; a `final` is seen in the window between a file's rename and its
    receipt or manifest.
    """
    chance = random.Random(seed)
    folders = ["documents", "dedup", "tokenizer", "tokens", "shards"]
    signs = [(folder, sign) for folder in folders for sign in ("temporary", "final")]
    for folder, sign in signs[:KILLS]:
        yield folder, sign, chance.choice([0.0, 0.0, chance.random() * 0.3])


def files(run: Path, folder: str) -> Iterator[tuple[str, str, int]]:
    """(sign, path, time of change) of the files in a folder, below the run or its work folder."""
    for place in [run / folder, *(run / ".work").glob(f"{folder[:5]}*")]:
        for parent, _, names in os.walk(place):
            for name in names:
                try:
                    changed = os.stat(os.path.join(parent, name)).st_ctime_ns
                except FileNotFoundError:
                    continue
                yield "temporary" if name.startswith(".tmp-") else "final", os.path.join(parent, name), changed


def wait_for(process: subprocess.Popen[bytes], run: Path, folder: str, *signs: str) -> bool:
    """Wait until a file with one of the signs shows; False when the process ended first."""
    known = set(files(run, folder))
    while process.poll() is None:
        if any(file[0] in signs and file not in known for file in files(run, folder)):
            return True
        time.sleep(0.001)
    return False


def victim(process: subprocess.Popen[bytes], kind: str) -> psutil.Process:
    """The driver itself, or one of the workers below it; the process of the stages when there is none yet."""
    driver = psutil.Process(process.pid)
    below = driver.children(recursive=True)
    workers = [child for child in below if "sdk_worker_main" in " ".join(child.cmdline())]
    return driver if kind == "driver" else (workers or below or [driver])[-1]


@pytest.mark.slow
def test_killed_ten_times_it_writes_the_same_bytes(small_run: Path, config: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("TOKENMILL_KILL_SEED", random.SystemRandom().randrange(10_000)))
    print(f"TOKENMILL_KILL_SEED={seed}")
    chance = random.Random(seed)
    output = tmp_path / "run"
    kills = []
    process: subprocess.Popen[bytes] | None = None
    log = tmp_path / "log.txt"

    def start(*options: str) -> subprocess.Popen[bytes]:
        options = (*options, "--direct_num_workers=2") if chance.random() < 0.5 else options
        with log.open("ab") as stream:
            return subprocess.Popen(command(config, output, *options), cwd=ROOT, stdout=stream, stderr=stream)

    def kill(folder: str, sign: str, delay: float) -> bool:
        """False when the command, or the worker chosen, ended by itself first."""
        nonlocal process
        if process is None or process.poll() is not None:
            process = start()
        if not wait_for(process, output, folder, sign):
            # The stage was over before the sign was seen: it is made again, and killed while it writes.
            process = start("--replace-from", STAGE_OF[folder])
            wait_for(process, output, folder, "temporary", "final")
        time.sleep(delay)
        if process.poll() is not None:
            return False
        kind = chance.choice(["driver", "worker"])
        try:
            victim(process, kind).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            return False
        if kind == "driver":
            process.wait()
        kills.append((folder, sign, kind))
        return True

    for folder, sign, delay in moments(seed):
        assert kill(folder, sign, delay) or any(kill(folder, sign, 0.0) for _ in range(TRIES)), (folder, sign, kills)
    if process is not None:
        process.wait(timeout=300)
    print(kills)
    assert run_whole(config, output) == contents(small_run), f"seed {seed}, kills {kills}, log {log.read_text()}"
    assert not list(output.rglob(".*")), "something was left over"
    facts = json.loads((output / "run.json").read_text())
    assert facts["attempts"] >= 1


def test_nothing_is_left_over(small_run: Path) -> None:
    assert not list(small_run.rglob(".*"))
    assert {path.name for path in small_run.iterdir()} == {
        "config.yaml", "plan", "documents", "dedup", "tokenizer", "tokens", "shards", "run.json",
    }  # fmt: skip

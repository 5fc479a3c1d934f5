"""A run small enough to be made again and again: sixty documents of invented words, and stages run in this process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines import plan
from pipelines.jobs import Run
from pipelines.stages import Context
from schemas.config import Config, parse_config
from schemas.lock import Lock

VARIES = {"run.json", "report.html"}


def words(seed: int, count: int) -> str:
    """`count` words drawn from 3,000, eight a line."""
    chance = random.Random(seed)
    drawn = [f"w{chance.randrange(3000) * 7919:x}" for _ in range(count)]
    return "\n".join(" ".join(drawn[i : i + 8]) for i in range(0, count, 8))


def write_tiny(folder: Path) -> Path:
    """Two components, three units, and the path of a config whose whole run takes seconds."""
    (folder / "code").mkdir(parents=True)
    for i in range(40):
        (folder / "code" / f"{i:03d}.py").write_text(words(i, 200))
    lines = [json.dumps({"text": words(100 + i, 200)}) for i in range(20)]
    (folder / "prose.jsonl").write_text("\n".join(lines) + "\n")
    return write_config(folder / "config.yaml", tiny_config(folder))


def tiny_config(folder: Path) -> dict[str, Any]:
    """The config of the corpus that `write_tiny` makes in `folder`."""
    return {
        "seed": 5,
        "components": {
            "code": {"weight": 0.7, "sources": [{"path": str(folder / "code"), "format": "files"}]},
            "prose": {"weight": 0.3, "sources": [{"path": str(folder / "prose.jsonl"), "format": "jsonl"}]},
        },
        "ingest": {"unit_bytes": 40_000},
        "quality": {"rules": False},
        "tokenizer": {"vocab_size": 320, "sample_characters": 20_000},
        "shard": {"sequence_lengths": [64], "lanes": 2, "shard_bytes": 20_000},
        "validation": {"fraction": 0.05},
    }


def write_config(path: Path, content: object) -> Path:
    """`content` as a YAML file."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def command(config: Path, output: Path, *options: str) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "pipelines", "run", str(config), "--output", str(output), *options]


def contents(run: Path) -> dict[str, str]:
    """The sha256 of every file of a run but those that may vary; hidden files count, for none may be left."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in VARIES
    }


@contextlib.contextmanager
def context_of(config: Config, directory: Path, run_id: str = "test") -> Iterator[Context]:
    """What a stage gets from an attempt, with the lock held and the plan written; workers are this process."""
    run = Run(str(directory), run_id)
    lock = Lock(run.directory, run.run_id)
    lock.acquire()
    try:
        fresh = plan.make_plan(config)
        plan.write_plan(run, fresh)
        yield Context(run, config, fresh, ["--direct_num_workers=1"], lambda event, **facts: None)
    finally:
        lock.release()


def config_of(content: dict[str, Any]) -> Config:
    """A config without a file."""
    return parse_config(content, "config.yaml")

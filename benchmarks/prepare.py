"""Preparation beside datatrove, on the same documents in one run: `python benchmarks/prepare.py [--corpus DIR]`.

Ours: `ingest` (quality rules off) and `dedup`, as commands with all starting costs; then the whole run. Theirs: the
four MinHash steps (`datatrove_minhash.py`), in an environment of its own that has datatrove and spacy installed; give
its interpreter as --datatrove PYTHON, else only ours is timed. Prints seconds, MB/s of text and ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEDUP_STAGES = ("ingest", "dedup")


def write_corpus(source: Path, target: Path, megabytes: int) -> int:
    """Write readable files below `source` as JSONL in sorted order, in one file a processor; returns bytes of text."""
    parts = [(target / f"part-{i:03d}.jsonl").open("w", encoding="utf-8") for i in range(os.cpu_count() or 1)]
    total = 0
    for number, path in enumerate(sorted(source.rglob("*.[chp]*"))):
        if total >= megabytes * 1_000_000:
            break
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # this is a corpus for timing; the pipeline's own reader counts what it cannot read
        if len(text) > 50:
            parts[number % len(parts)].write(json.dumps({"text": text, "id": str(number)}) + "\n")
            total += len(text.encode())
    for part in parts:
        part.close()
    return total


def write_config(path: Path, source: Path) -> Path:
    """One component over the JSONL, quality rules off as datatrove's MinHash steps have none."""
    content = {
        "components": {"code": {"weight": 1, "sources": [{"path": f"{source}/*.jsonl", "format": "jsonl"}]}},
        "quality": {"rules": False},
        "tokenizer": {"vocab_size": 8000, "sample_characters": 10_000_000},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def seconds_of(command: list[str]) -> float:
    """Wall seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path(sysconfig.get_path("stdlib")), help="a tree of sources")
    parser.add_argument("--megabytes", type=int, default=200, help="text to take of it, at most")
    parser.add_argument("--datatrove", metavar="PYTHON", help="interpreter of an environment with datatrove and spacy")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "jsonl").mkdir()
        size = write_corpus(arguments.corpus, work / "jsonl", arguments.megabytes) / 1e6
        config = write_config(work / "config.yaml", work / "jsonl")
        run = [sys.executable, "-m", "pipelines", "run", str(config), "--output", str(work / "run")]
        ours = seconds_of([*run, "--stages", ",".join(DEDUP_STAGES)])
        rest = seconds_of(run)
        print(f"{size:.0f} MB of text, {os.cpu_count()} processors")
        print(f"tokenmill ingest + dedup          {ours:8.1f} s  {size / ours:6.1f} MB/s")
        print(f"tokenmill ingest to shards        {ours + rest:8.1f} s  {size / (ours + rest):6.1f} MB/s")
        if arguments.datatrove:
            script = str(ROOT / "benchmarks" / "datatrove_minhash.py")
            tasks = str(os.cpu_count() or 1)
            theirs = seconds_of([arguments.datatrove, script, str(work / "jsonl"), str(work / "theirs"), tasks])
            print(f"datatrove MinHash, four steps     {theirs:8.1f} s  {size / theirs:6.1f} MB/s")
            print(f"ratio, deduplication alone        {theirs / ours:8.1f} x")


if __name__ == "__main__":
    main()

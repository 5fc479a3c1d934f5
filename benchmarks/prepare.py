"""Preparation beside datatrove, on the same documents in one run: `python benchmarks/prepare.py [--corpus DIR]`.

Ours: `ingest` (quality rules off) and `dedup` as one command, then the other stages as a second, with all starting
costs. Theirs: the four MinHash steps and tokenization (`datatrove_steps.py`; the steps alone are timed, not the start
of its interpreter), in an environment of its own that has datatrove, spacy, tokenizers and orjson installed; give its
interpreter as --datatrove PYTHON, else only ours is timed. Prints seconds, MB/s of text and ratios by stage, and last
the bare kernels' bound (`kernels.py`), measured beside.
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
from kernels import print_bound

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 32_000


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
        "tokenizer": {"vocab_size": VOCABULARY, "sample_characters": 10_000_000},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def seconds_of(command: list[str]) -> float:
    """Wall seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def stage_seconds(run: Path) -> dict[str, float]:
    """Seconds by stage of the run's last command."""
    seconds: dict[str, float] = json.loads((run / "run.json").read_bytes())["stages"]
    return seconds


def show(what: str, seconds: float, megabytes: float) -> None:
    """A line of the table."""
    print(f"{what:42}{seconds:8.1f} s  {megabytes / seconds:6.1f} MB/s", flush=True)


def main() -> None:
    """Time both and print the tables."""
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
        print(f"{size:.0f} MB of text, {os.cpu_count()} processors")
        # The first stages as a command of their own, with all starting costs, as the comparison asks for.
        dedup = seconds_of([*run, "--stages", "ingest,dedup"])
        stages = stage_seconds(work / "run")
        whole = dedup + seconds_of(run)
        stages |= stage_seconds(work / "run")
        for name, seconds in stages.items():
            show(f"tokenmill {name}", seconds, size)
        show("tokenmill ingest + dedup, as a command", dedup, size)
        show("tokenmill ingest to shards, two commands", whole, size)
        if arguments.datatrove:
            script = str(ROOT / "benchmarks" / "datatrove_steps.py")
            command = [arguments.datatrove, script, str(work / "jsonl"), str(work / "theirs"), str(os.cpu_count() or 1)]
            printed = subprocess.run([*command, str(VOCABULARY)], check=True, cwd=ROOT, capture_output=True, text=True)
            theirs: dict[str, float] = json.loads(printed.stdout.splitlines()[-1])
            for name, seconds in theirs.items():
                show(f"datatrove {name}", seconds, size)
            encode = theirs.pop("tokenize")
            show("datatrove MinHash, four steps", sum(theirs.values()), size)
            print(f"ratio: ingest + dedup / MinHash           {sum(theirs.values()) / dedup:8.1f} x")
            print(f"ratio: tokenize / tokenize                {encode / stages['tokenize']:8.1f} x")
            print(f"ratio: all stages / MinHash + tokenize    {(sum(theirs.values()) + encode) / whole:8.1f} x")
        print_bound(str(work / "run"), arguments.megabytes, whole)


if __name__ == "__main__":
    main()

"""Whether time a byte and memory stay level as the input grows: `python benchmarks/growth.py CORPUS [--plot FILE.svg]`.

CORPUS has a folder a component, `code` and `natural_language`, of readable files. For each size a folder of its own is
filled with 87 % of code and 13 % of prose, files in keyed order, and `python -m pipelines run` makes shards of it,
rules and all, with default settings. Where a component has too little, its files come again as copies that
are no duplicates: in copy n, about every third word of four or more ASCII letters (chosen by CRC-32, so the same one
everywhere) gets `_n` at its end. A 5-token shingle then survives with probability (2/3)^5 = 0.13, so copies are far
below the threshold of near-duplicates; taking `_n` away restores the original.

Every process below the run is looked at five times a second (psutil). Time is processor time, user and system of all
processes, which other work on the machine lengthens little; wall time stands beside it. Memory is the largest resident
set of the driver, of any worker, and of the supervising command. Each size is a run of its own in a folder of its own.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
SHARES = {"code": 0.87, "natural_language": 0.13}
SIZES = "250,500,1000,2000"
TIME, MEMORY = 0.15, 0.20  # how far from the mean a size may be
_WORD = re.compile(rb"[A-Za-z]{4,}")


@dataclass
class Seen:
    """One run. bytes: of input; cpu: seconds by stage; wall: seconds in all; peaks: bytes of memory by role."""

    bytes: int
    files: int
    copied: int
    cpu: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0
    peaks: dict[str, int] = field(default_factory=dict)
    tokens: int = 0


def fill(corpus: Path, target: Path, wanted: int) -> Seen:
    """Link or copy files of `corpus` below `target` until there are `wanted` bytes of them."""
    seen = Seen(0, 0, 0)
    for component, share in SHARES.items():
        left = wanted * share
        for path, copy in _files(corpus / component):
            if left <= 0:
                break
            to = target / component / f"copy-{copy}" / path.relative_to(corpus / component)
            to.parent.mkdir(parents=True, exist_ok=True)
            size = _place(path, to, copy)
            left -= size
            seen.bytes += size
            seen.files += 1
            seen.copied += size if copy else 0
    return seen


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """All files below `folder` in keyed order, then all again as copies 1, 2, …"""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size]
    found.sort(key=lambda path: (zlib.crc32(str(path.relative_to(folder)).encode()), path))
    if not found:
        raise SystemExit(f"{folder}: holds no files")
    return ((path, copy) for copy in itertools.count() for path in found)


def _place(path: Path, to: Path, copy: int) -> int:
    """Link the original, or write a copy with its words marked; returns its bytes."""
    if copy == 0:
        try:
            os.link(path, to)
        except OSError:  # another filesystem
            to.write_bytes(path.read_bytes())
        return to.stat().st_size
    mark = f"_{copy}".encode()
    changed = _WORD.sub(lambda word: word[0] + mark if zlib.crc32(word[0]) % 3 == 0 else word[0], path.read_bytes())
    to.write_bytes(changed)
    return len(changed)


def write_config(path: Path, corpus: Path) -> None:
    """Both components, every file that is there, defaults but for what tells nothing here."""
    components = {
        name: {
            "weight": share,
            "kind": name,
            "sources": [{"path": str(corpus / name), "format": "files", "include": ["**/*"]}],
        }
        for name, share in SHARES.items()
    }
    path.write_text(yaml.safe_dump({"components": components, "ingest": {"max_rejected_fraction": 1.0}}))


def watch(command: list[str], seen: Seen) -> None:
    """Run a command, adding to `seen` what its processes take by the stage it says it is in."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines: collections.deque[str] = collections.deque(maxlen=5)
    stage = ["start"]

    def follow() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if match := re.match(r"(\w+)( \d+)?: \d+ of \d+ units", line):
                stage[0] = {"pack": "shard"}.get(match[1], match[1])

    reader = threading.Thread(target=follow)
    reader.start()
    used: dict[tuple[int, float], float] = {}
    cpu: collections.Counter[str] = collections.Counter()
    peaks: collections.Counter[str] = collections.Counter()
    started = time.perf_counter()
    top = psutil.Process(process.pid)
    while process.poll() is None:
        for one, role in _below(top):
            try:
                with one.oneshot():
                    times, rss, key = one.cpu_times(), one.memory_info().rss, (one.pid, one.create_time())
            except psutil.NoSuchProcess:
                continue
            peaks[role] = max(peaks[role], rss)
            spent = times.user + times.system
            cpu[stage[0]] += spent - used.get(key, 0.0)
            used[key] = spent
        time.sleep(0.2)
    reader.join()
    if process.returncode:
        raise SystemExit("".join(lines))
    seen.wall = time.perf_counter() - started
    seen.cpu, seen.peaks = dict(cpu), dict(peaks)


def _below(top: psutil.Process) -> list[tuple[psutil.Process, str]]:
    """The command, its driver, and every process below that, with their roles."""
    try:
        drivers = top.children()
        workers = [worker for driver in drivers for worker in driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [(top, "command"), *((one, "driver") for one in drivers), *((one, "worker") for one in workers)]


def measure(corpus: Path, megabytes: int, folder: Path) -> Seen:
    """One run over `megabytes` of input."""
    seen = fill(corpus, folder / "input", megabytes * 1_000_000)
    write_config(folder / "config.yaml", folder / "input")
    output = folder / "run"
    watch([sys.executable, "-m", "pipelines", "run", str(folder / "config.yaml"), "--output", str(output)], seen)
    facts = json.loads((output / "run.json").read_bytes())
    seen.peaks["driver"] = max(seen.peaks["driver"], facts["peak_driver_bytes"])  # the kernel's own high-water mark
    seen.tokens = sum(
        json.loads((output / "tokens" / name / "manifest.json").read_bytes())["counts"]["tokens"] for name in SHARES
    )
    return seen


STAGES = ("ingest", "dedup", "tokenizer", "tokenize", "shard")


def table(found: list[Seen]) -> list[str]:
    """A Markdown table of the runs."""
    head = ["input, MB", "of it copies", "files", "tokens, M", *(f"{name}, s/GB" for name in STAGES), "all, s/GB"]
    head += ["wall, s", "driver, MB", "worker, MB", "command, MB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for seen in found:
        gigabytes = seen.bytes / 1e9
        row = [f"{seen.bytes / 1e6:,.0f}", f"{seen.copied / seen.bytes:.0%}", f"{seen.files:,}"]
        row += [f"{seen.tokens / 1e6:,.0f}", *(f"{seen.cpu.get(name, 0) / gigabytes:.0f}" for name in STAGES)]
        row += [f"{sum(seen.cpu.values()) / gigabytes:.0f}", f"{seen.wall:.0f}"]
        row += [f"{seen.peaks.get(role, 0) / 1e6:,.0f}" for role in ("driver", "worker", "command")]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def laws(found: list[Seen]) -> list[str]:
    """How far the sizes are from their mean, and whether that is within the bounds."""
    series = {"processor time a byte": ([sum(seen.cpu.values()) / seen.bytes for seen in found], TIME)}
    trained = "processor time a byte without the tokenizer's training"
    series[trained] = ([(sum(seen.cpu.values()) - seen.cpu.get("tokenizer", 0)) / seen.bytes for seen in found], TIME)
    for role in ("driver", "worker", "command"):
        series[f"peak memory of the {role}"] = ([seen.peaks.get(role, 0) for seen in found], MEMORY)
    fixed, rate = _fit(found)
    beyond = [(sum(seen.cpu.values()) - fixed) / seen.bytes for seen in found]
    series[f"processor time a byte beyond {fixed:.0f} s that any run takes"] = (beyond, TIME)
    lines = [f"least squares: {fixed:.1f} s and {rate * 1e9:.1f} s a GB"]
    for name, (values, bound) in series.items():
        mean = sum(values) / len(values)
        away = [value / mean - 1 for value in values]
        verdict = "held" if max(map(abs, away)) <= bound else "MISSED"
        lines.append(f"{name}: {min(away):+.0%} to {max(away):+.0%} of the mean, bound {bound:.0%}: {verdict}")
    return lines


def _fit(found: list[Seen]) -> tuple[float, float]:
    """Seconds of a run of no input, and a byte, by least squares over the runs."""
    rate, fixed = np.polyfit([seen.bytes for seen in found], [sum(seen.cpu.values()) for seen in found], 1)
    return float(fixed), float(rate)


def plot(found: list[Seen], path: str) -> None:
    """Processor time a gigabyte by stage, and peak memory, over the size of the input."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, (times, memory) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    sizes = [seen.bytes / 1e9 for seen in found]
    for name in (*STAGES, "all"):
        spent = [sum(seen.cpu.values()) if name == "all" else seen.cpu.get(name, 0) for seen in found]
        each = [seconds / size for seconds, size in zip(spent, sizes, strict=True)]
        times.plot(sizes, each, "o-", color="black" if name == "all" else None, label=name)
    times.set(xlabel="input, GB", ylabel="processor seconds a GB", ylim=(0, None), xscale="log")
    for role in ("driver", "worker", "command"):
        memory.plot(sizes, [seen.peaks.get(role, 0) / 1e6 for seen in found], "o-", label=role)
    memory.set(xlabel="input, GB", ylabel="peak memory of a process, MB", ylim=(0, None), xscale="log")
    for axes in (times, memory):
        axes.set_xticks(sizes, [f"{size:.2g}" for size in sizes])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure every size; print the table and the laws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="a folder with the folders code and natural_language")
    parser.add_argument("--megabytes", default=SIZES, help=f"sizes, separated by commas (default: {SIZES})")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the result here")
    parser.add_argument("--json", metavar="FILE", help="write what was measured here")
    arguments = parser.parse_args()
    found: list[Seen] = []
    for megabytes in map(int, arguments.megabytes.split(",")):
        with tempfile.TemporaryDirectory(dir=arguments.corpus.parent) as folder:  # beside it, so that files are linked
            found.append(measure(arguments.corpus, megabytes, Path(folder)))
        print(f"{megabytes} MB: {found[-1].wall:.0f} s", file=sys.stderr, flush=True)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps([asdict(seen) for seen in found], indent=1) + "\n")
    print("\n".join([*table(found), "", *laws(found)]))
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()

"""The loader beside a bare TFRecordDataset over the same files, and beside litdata and Grain on the same tokens.

    python benchmarks/loader.py [--folder DIR] [--litdata PYTHON] [--grain PYTHON]

Writes a view of random uint16 tokens (1 GB by default; kept when --folder is given and used again), then times
every reader several times in turn, from the page cache. --litdata and --grain name the Python of an environment that
has litdata, or grain and array_record, installed. Prints medians, in million tokens a second, and ratios; then the time
to the first batch from several positions, and the memory after a long read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a checkout need not be installed

LENGTH, LANES, ROWS = 4096, 16, 2000
COMPONENTS = {"code": 87, "prose": 13}
BATCH, REPEATS, SECONDS = 64, 5, 3.0

# Run in the peers' environments: convert a .npy matrix of tokens once, then read batches for a few seconds.
LITDATA = """
import sys, time, numpy as np, litdata
from pathlib import Path
matrix, folder, batch, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
tokens = np.load(matrix, mmap_mode="r")
length = tokens.shape[1]
def rows(start):
    import torch
    for row in tokens[start : start + 1000]:
        yield torch.from_numpy(row.astype(np.uint16))
if __name__ == "__main__":
    if not (folder / "index.json").exists():
        litdata.optimize(rows, list(range(0, len(tokens), 1000)), str(folder), chunk_bytes="64MB", num_workers=1,
                         item_loader=litdata.TokensLoader(block_size=length))
    def pass_():
        data = litdata.StreamingDataset(str(folder), item_loader=litdata.TokensLoader(block_size=length), shuffle=False)
        loader = litdata.StreamingDataLoader(data, batch_size=batch, num_workers=2)
        count, begun = 0, None
        for found in loader:
            begun = begun or time.perf_counter()
            count += found.shape[0]
            if time.perf_counter() - begun > seconds:
                break
        return (count - batch) * length / (time.perf_counter() - begun)
    print(pass_())
"""
GRAIN = """
import sys, time, numpy as np, grain
from pathlib import Path
from array_record.python.array_record_module import ArrayRecordWriter
matrix, folder, batch, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
class Decode(grain.transforms.Map):
    def map(self, record):
        return np.frombuffer(record, np.uint16).astype(np.int32)
if __name__ == "__main__":
    tokens = np.load(matrix, mmap_mode="r")
    length, file = tokens.shape[1], folder / "tokens.arrayrecord"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
        for row in tokens:
            writer.write(row.tobytes())
        writer.close()
    source = grain.sources.ArrayRecordDataSource(str(file))
    whole = grain.sharding.NoSharding()
    sampler = grain.samplers.IndexSampler(len(source), whole, shuffle=True, num_epochs=None, seed=1)
    loader = grain.DataLoader(data_source=source, sampler=sampler, worker_count=0,
                              operations=[Decode(), grain.transforms.Batch(batch)])
    count, begun = 0, None
    for found in loader:
        begun = begun or time.perf_counter()
        count += found.shape[0]
        if time.perf_counter() - begun > seconds:
            break
    print((count - batch) * length / (time.perf_counter() - begun))
"""


def write_view(folder: Path, groups: int, lanes: int = LANES, rows: int = ROWS, length: int = LENGTH) -> None:
    """A view of random tokens, documents of about 500 tokens; without provenance and tokens, so not to be verified."""
    import numpy as np  # noqa: PLC0415

    from schemas.order import ORDER_VERSION, PERMUTATION, Order  # noqa: PLC0415
    from schemas.record import end_checksums, frame_examples, record_size  # noqa: PLC0415

    if (folder / "manifest.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random, size, sha = np.random.default_rng(1), record_size(length, "<u2"), "0" * 64
    count, train, provenance = groups * lanes, [], []
    for number in range(count):
        tokens = random.integers(4, 32000, (rows, length + 1), dtype=np.uint16)
        tokens[random.random(tokens.shape) < 0.002] = 2
        name = f"train-{number:05d}-of-{count:05d}"
        with open(folder / f"{name}.tfrecord", "w+b") as file:
            file.write(frame_examples(tokens))
            ends = end_checksums(file, size, rows)
        train.append({"path": f"{name}.tfrecord", "records": rows, "bytes": rows * size, "sha256": sha, "ends": ends})
        provenance.append({"path": f"provenance-{name}.parquet", "records": 0, "bytes": 0, "sha256": sha})
    records, weights = count * rows, tuple(COMPONENTS.values())
    available = tuple(records * weight // 100 for weight in weights)
    order = Order(17, lanes, groups, rows, weights, available, tuple(COMPONENTS))
    parts = [
        {"name": name, "weight": weight, "requested": weight / 100, "realised": weight / 100}
        for name, weight in COMPONENTS.items()
    ]
    counts = {"documents": 0, "tokens": 0, "unused": 0, "repeats": 1, "token_share": 0.5}
    none = {"in": 0, "kept": 0, "dropped": {}, "rejected": {}}
    content = {
        "stage": "shard",
        "fingerprint": sha,
        "sequence_length": length,
        "token_dtype": "uint16",
        "packing": "concat",
        "tokenizer": {
            "fingerprint": sha, "vocab_size": 32000, "begin": 1, "end": 2, "pad": 3,
            "fim_begin": 4, "fim_hole": 5, "fim_end": 6,
        },
        "order": {
            "version": ORDER_VERSION, "permutation": PERMUTATION, "seed": 17, "period": order.period,
            "components": parts,
        },
        "components": {
            name: counts | {"available": have, "used": have} for name, have in zip(COMPONENTS, available, strict=True)
        },
        "splits": {
            "train": {"lanes": lanes, "groups": groups, "rows": rows, "records": records, "files": train},
            "validation": {},
        },
        "provenance": provenance,
        "units": {"path": "units.parquet", "sha256": sha},
        "conservation": {
            "documents": none,
            "tokens": {"encoded": 0, "in_records": 0, "repeated": 0, "padding": 0, "unused": 0},
        },
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))


def rate(make: Callable[[], Iterable[object]]) -> float:
    """Tokens a second over at most SECONDS of batches, after the first."""
    count, begun = -1, 0.0
    for _ in make():
        begun = begun or time.perf_counter()
        count += 1
        if time.perf_counter() - begun > SECONDS:
            break
    return count * BATCH * (LENGTH + 1) / (time.perf_counter() - begun)


def peer(python: str, code: str, work: Path, name: str) -> float:
    """Tokens a second of a peer, in its own environment."""
    script = work / f"read_{name}.py"  # not the name of the package it imports
    script.write_text(code)
    command = [python, str(script), str(work / "tokens.npy"), str(work / name), str(BATCH), str(SECONDS)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{name} failed:\n{made.stderr[-2000:]}")
    return float(made.stdout.split()[-1])


def write_matrix(work: Path, view: Path) -> None:
    """The view's tokens as one .npy matrix, for the peers."""
    import numpy as np  # noqa: PLC0415

    if (work / "tokens.npy").exists():
        return
    size = 2 * (LENGTH + 1)
    rows = []
    for file in sorted(view.glob("*.tfrecord")):
        stored = np.fromfile(file, np.uint8).reshape(ROWS, -1)
        rows.append(np.ascontiguousarray(stored[:, -4 - size : -4]).view("<u2"))
    np.save(work / "tokens.npy", np.concatenate(rows))


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, help="where the view is, or is to be written")
    options.add_argument("--groups", type=int, default=4, help="groups of 262 MB (default: %(default)s)")
    options.add_argument("--repeats", type=int, default=REPEATS)
    options.add_argument("--litdata", metavar="PYTHON")
    options.add_argument("--grain", metavar="PYTHON")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.folder or Path(temporary)
        write_view(work / "view", chosen.groups)
        measure(work, chosen)


def measure(work: Path, chosen: argparse.Namespace) -> None:
    """Everything, in turn, `repeats` times."""
    import tensorflow as tf  # noqa: PLC0415

    from loader import Shards  # noqa: PLC0415

    shards = Shards(work / "view")
    files = [f"{shards.folder}/{file.path}" for file in shards.files]

    def ours(**options: object) -> Callable[[], Iterable[object]]:
        return lambda: shards.dataset(BATCH, **options)  # type: ignore[arg-type]

    readers: dict[str, Callable[[], float]] = {
        "bare": lambda: rate(lambda: tf.data.TFRecordDataset(files).batch(BATCH).prefetch(2).repeat()),
        "bare, 2 files at a time": lambda: rate(
            lambda: tf.data.TFRecordDataset(files, num_parallel_reads=2).batch(BATCH).prefetch(2).repeat()
        ),
        "tokens": lambda: rate(ours(fields=("tokens",))),
        "tokens, epoch 3": lambda: rate(ours(fields=("tokens",), start=3 * shards.records)),
        "full batch": lambda: rate(ours()),
        "full batch, no masks": lambda: rate(ours(document_masking=False)),
    }
    if chosen.litdata or chosen.grain:
        write_matrix(work, work / "view")
    if chosen.litdata:
        readers["litdata"] = lambda: peer(chosen.litdata, LITDATA, work, "litdata")
    if chosen.grain:
        readers["grain"] = lambda: peer(chosen.grain, GRAIN, work, "grain")
    for read in readers.values():
        read()  # page cache, conversion
    found: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(chosen.repeats):
        for name, read in readers.items():
            found[name].append(read())
    best_bare = max(statistics.median(found[name]) for name in readers if name.startswith("bare"))
    print(f"{'reader':26} {'M tokens/s':>10} {'least':>7} {'most':>7}  of the faster bare")
    for name, rates in found.items():
        middle = statistics.median(rates)
        row = f"{name:26} {middle / 1e6:10.0f} {min(rates) / 1e6:7.0f} {max(rates) / 1e6:7.0f}"
        print(f"{row}  {middle / best_bare:.2f}")
    positions = {"0": 0, "N/2 + 1": shards.records // 2 + 1, "3N + N/3": 3 * shards.records + shards.records // 3}
    for what, start in positions.items():
        times = []
        for _ in range(chosen.repeats):
            begun = time.perf_counter()
            next(iter(shards.dataset(BATCH, start=start)))
            times.append(time.perf_counter() - begun)
        print(f"first batch from n = {what}: {statistics.median(times):.3f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()

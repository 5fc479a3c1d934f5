"""The bound a finished run is held against: `python benchmarks/kernels.py RUN [--megabytes 100]`.

Runs the bare kernels of preparation (read, clean, rules, language, signature, encode, write) over a sample of the run's
units, on all processors at once and with nothing between them: no Beam, no hashes, no receipts, no second reading.
Their seconds per byte, times the run's bytes, divided by the processors, is the time a run could take at best. Prints
that beside what the run took (`run.json`; it must have been made in one go). Reading comes from the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pipelines import stages
from pipelines.cleaning import clean_code, clean_natural_language
from pipelines.documents import kept_documents
from pipelines.jobs import Run
from pipelines.language import code_language, natural_language
from pipelines.minhash import shingle_hashes, signatures
from pipelines.parquet import read_table
from pipelines.plan import Plan, Unit, make_plan, read_index
from pipelines.quality import measure
from pipelines.run import read_config
from pipelines.sources import RawDocument, read_slices
from pipelines.text_table import TextTable
from pipelines.tokenizer import Tokenizer
from pipelines.tokenizer.job import load_tokenizer
from schemas.arrow import parquet_writer
from schemas.config import Config, Source
from schemas.record import frame_examples, token_dtype

BATCH_CHARACTERS = 4 << 20
Result = TypeVar("Result")


class Stopwatch:
    """Seconds by kernel."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def __call__(self, kernel: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """work(*arguments), its time added to the kernel's."""
        started = time.perf_counter()
        result = work(*arguments)
        self.seconds[kernel] += time.perf_counter() - started
        return result


def read(source: Source, root: str, unit: Unit) -> list[tuple[str, str]]:
    """(source, text) of the documents of a unit that are UTF-8."""
    found = []
    for item in read_slices(source, root, unit.slices):
        if isinstance(item, RawDocument):
            with contextlib.suppress(UnicodeDecodeError):  # the run rejected it
                found.append((item.source, item.data if isinstance(item.data, str) else item.data.decode()))
    return found


def name_languages(kind: str, sources: list[str], texts: list[str]) -> list[str]:
    """The language of each document."""
    if kind == "code":
        return [code_language(path) for path in sources]
    return [name for name, _ in natural_language(texts)]


def sign(table: TextTable, config: Config) -> None:
    """Shingles and signatures."""
    signatures(*shingle_hashes(table, config.dedup.shingle), config.dedup.permutations)


def batches(documents: list[tuple[str, str]]) -> Iterator[tuple[list[str], list[str]]]:
    """Sources and texts in batches as large as those of ingestion."""
    start = characters = 0
    for i, (_, text) in enumerate(documents):
        characters += len(text)
        if characters >= BATCH_CHARACTERS or i + 1 == len(documents):
            sources, texts = zip(*documents[start : i + 1], strict=True)
            yield list(sources), list(texts)
            start, characters = i + 1, 0


def ingest_kernels(watch: Stopwatch, config: Config, unit: Unit, root: str) -> None:
    """Read, clean, rules, language and signature of one unit."""
    source = config.components[unit.component].sources[unit.source]
    kind = config.kind(unit.component)
    clean = clean_code if kind == "code" else clean_natural_language
    rules = list(config.rule_bounds(unit.component))
    documents = watch("read", read, source, root, unit)
    documents = watch("clean", lambda: [(path, text) for path, raw in documents if (text := clean(raw))])
    for sources, texts in batches(documents):
        languages = watch("language", name_languages, kind, sources, texts)
        # The table works out token hashes when they are first asked for, which the signature and some rules share.
        table = watch("signature", TextTable.from_texts, texts)
        watch("signature", sign, table, config)
        if rules:
            watch("rules", measure, table, texts, kind, languages, sources, rules)


def later_kernels(watch: Stopwatch, run: Run, task: int, tokenizer: Tokenizer, lengths: list[int], folder: str) -> None:
    """Encode the kept documents of one unit; write its documents, its tokens and as many records."""
    path = os.path.join(folder, f"{task}.parquet")
    documents = read_table(read_index(run).path(run, "documents", "documents", task))
    watch("write", write_table, path, documents)
    tables = list(kept_documents(run, task, ["text"]))
    texts = [text for table in tables for text in table["text"].to_pylist()]
    ids = watch("encode", tokenizer.encode_batch, texts)
    flat = np.concatenate([np.empty(0, np.int32), *ids]).astype(token_dtype(tokenizer.vocab_size))
    offsets = pa.array(np.cumsum([0, *map(len, ids)]), pa.int32())
    tokens = pa.table({"tokens": pa.ListArray.from_arrays(offsets, pa.array(flat))})
    watch("write", write_table, path, tokens)
    for length in lengths:
        records = flat[: len(flat) // (length + 1) * (length + 1)].reshape(-1, length + 1)
        watch("write", write_records, path, records)
    os.unlink(path)


def write_table(path: str, table: pa.Table) -> None:
    """A table as the pipeline writes it."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table)


def write_records(path: str, records: Any) -> None:
    """Records as a shard's bytes."""
    Path(path).write_bytes(frame_examples(records))


def measure_units(directory: str, config: Config, plan: Plan, tasks: list[int]) -> list[tuple[int, dict[str, float]]]:
    """(task, seconds by kernel) of units; the first is run twice and counts the second time, when all is loaded."""
    run = Run(directory, "")
    tokenizer = load_tokenizer(run)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for task in [*tasks[:1], *tasks]:
            watch, unit = Stopwatch(), plan.units[task]
            ingest_kernels(watch, config, unit, plan.roots[unit.component][unit.source])
            later_kernels(watch, run, task, tokenizer, config.shard.sequence_lengths, folder)
            found.append((task, dict(watch.seconds)))
    return found[1:]


def sizes(directory: str, plan: Plan) -> list[int]:
    """The bytes each unit read, by task number."""
    manifests = [stages.need_manifest(Run(directory, ""), "documents", name) for name in plan.by_component]
    return [sum(piece.size for piece in unit.inputs) for whole in manifests for unit in whole.units]


def sample(plan: Plan, size: list[int], megabytes: int, parts: int) -> list[list[int]]:
    """Task numbers spread evenly over each component, in `parts` shares of about the same size."""
    step = max(1, round(sum(size) / (megabytes * 1_000_000)))
    chosen = [task for tasks in plan.by_component.values() for task in tasks[::step]]
    chosen.sort(key=lambda task: -size[task])
    return [chosen[i::parts] for i in range(parts)]


def bound(directory: str, megabytes: int) -> tuple[dict[str, float], float]:
    """(seconds by kernel of the whole run on one processor, the share of its bytes that was measured)."""
    config = read_config(Run(directory, ""))
    plan = make_plan(config)
    size = sizes(directory, plan)
    parts = sample(plan, size, megabytes, os.cpu_count() or 1)
    with ProcessPoolExecutor(len(parts)) as pool:
        jobs = [pool.submit(measure_units, directory, config, plan, tasks) for tasks in parts if tasks]
        measured = {task: seconds for job in jobs for task, seconds in job.result()}
    kernels: Counter[str] = Counter()
    for tasks in plan.by_component.values():
        mine = [task for task in tasks if task in measured]
        scale = sum(size[task] for task in tasks) / sum(size[task] for task in mine)
        for task in mine:
            kernels.update({kernel: value * scale for kernel, value in measured[task].items()})
    return dict(kernels), sum(size[task] for task in measured) / sum(size)


def main() -> None:
    """Measure, and print the bound beside the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a finished run directory; its sources must still be there")
    parser.add_argument("--megabytes", type=int, default=100, help="how much of the input to measure, about")
    arguments = parser.parse_args()
    facts = json.loads((Path(arguments.run) / "run.json").read_bytes())
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in facts["stages"].items()))
    print_bound(arguments.run, arguments.megabytes, facts["seconds"])


def print_bound(directory: str, megabytes: int, took: float) -> None:
    """The table: kernels, their sum over the processors, the seconds the run took, and the ratio."""
    kernels, share = bound(directory, megabytes)
    processors = os.cpu_count() or 1
    for kernel, seconds in kernels.items():
        print(f"  {kernel:10} {seconds / processors:8.1f} s")
    best = sum(kernels.values()) / processors
    print(f"bare kernels on {processors} processors {best:8.1f} s  (measured on {share:.0%} of the input)")
    print(f"the run took                 {took:8.1f} s")
    print(f"share of the bound           {best / took:8.2f}")


if __name__ == "__main__":
    main()

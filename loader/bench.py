"""How fast this machine reads a view: tokens and bytes a second, and the time to the first batch."""

from __future__ import annotations

import os
import time
from typing import Any

from loader.shards import FIELDS, Shards

Facts = dict[str, Any]
_SECONDS = 3.0


def bench(path: str, global_batch: int) -> Facts:
    """Measure the dataset of one host. Loads TensorFlow before any clock runs.

    Raises:
        Refused: path is no view, or the batch makes no sense.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are no part of the answer
    import tensorflow as tf  # type: ignore[import-untyped]  # noqa: F401, PLC0415

    shards = Shards(path)
    facts: Facts = {"view": shards.folder, "global_batch": global_batch, "processors": os.cpu_count()}
    facts["first_batch_seconds"] = {
        str(start): round(_first_batch(shards, global_batch, start), 3) for start in (0, shards.records // 2)
    }
    for name, fields in (("tokens", ("tokens",)), ("full", FIELDS)):
        a_second = _batches_a_second(shards, global_batch, fields) * global_batch
        facts[name] = {
            "tokens_per_second": round(a_second * (shards.sequence_length + 1)),
            "megabytes_per_second": round(a_second * shards.files[0].bytes / shards.files[0].records / 1e6, 1),
        }
    return facts


def bench_lines(facts: Facts) -> list[str]:
    """The facts as lines for a terminal."""
    lines = [f"{facts['view']}, batches of {facts['global_batch']}, {facts['processors']} processors"]
    lines += [f"  first batch from n = {n}: {seconds} s" for n, seconds in facts["first_batch_seconds"].items()]
    for name, what in (("tokens", "tokens alone"), ("full", "full batches")):
        found = facts[name]
        speed, rate = found["tokens_per_second"] / 1e6, found["megabytes_per_second"]
        lines.append(f"  {what}: {speed:,.1f} M tokens/s, {rate:,.1f} MB/s read")
    return lines


def _first_batch(shards: Shards, global_batch: int, start: int) -> float:
    begun = time.perf_counter()
    next(iter(shards.dataset(global_batch, start=start)))
    return time.perf_counter() - begun


def _batches_a_second(shards: Shards, global_batch: int, fields: tuple[str, ...]) -> float:
    batches = iter(shards.dataset(global_batch, fields=fields))
    next(batches)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        next(batches)
        count += 1
    return count / (time.perf_counter() - begun)

"""datatrove's MinHash deduplication over JSONL, in its own environment: `PYTHON datatrove_minhash.py INPUT WORK TASKS`.

The four steps of datatrove's own example (signatures, buckets, clusters, filter) with its defaults: word 5-grams, 14
buckets of 8 hashes, 64-bit xxhash. Prints the seconds of each step as one line of JSON.
"""

import json
import sys
import time

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig


def main() -> None:
    """Run the steps one after another."""
    source, work, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = MinhashConfig(hash_config=HashConfig(precision=64))
    steps = {
        "signatures": (
            tasks,
            [JsonlReader(source), MinhashDedupSignature(f"{work}/signatures", config=config, language="eng")],
        ),
        "buckets": (
            config.num_buckets,
            [MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)],
        ),
        "clusters": (1, [MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config)]),
        "filter": (
            tasks,
            [JsonlReader(source), MinhashDedupFilter(f"{work}/remove"), JsonlWriter(f"{work}/kept", compression=None)],
        ),
    }
    seconds = {}
    for name, (count, pipeline) in steps.items():
        started = time.perf_counter()
        LocalPipelineExecutor(pipeline, tasks=count, workers=tasks, logging_dir=f"{work}/logs/{name}").run()
        seconds[name] = round(time.perf_counter() - started, 2)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()

"""datatrove over JSONL, in its own environment: `PYTHON datatrove_steps.py INPUT WORK TASKS [VOCABULARY]`.

The four MinHash steps of datatrove's own example (signatures, buckets, clusters, filter) with its defaults: word
5-grams, 14 buckets of 8 hashes, 64-bit xxhash. With VOCABULARY also its tokenization of what is kept, by a byte-level
BPE of that size trained on the same documents (outside the time, as tokenmill's own training is reported apart). Prints
the seconds of each step as one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def train_tokenizer(source: str, path: str, vocabulary: int) -> str:
    """A byte-level BPE of the first 10 MB of the documents, as a file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(first_texts(source, 10_000_000), trainer)
    tokenizer.save(path)
    return path


def first_texts(source: str, characters: int) -> Iterator[str]:
    """Texts of the JSONL files until there are enough characters."""
    for path in sorted(Path(source).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                yield text
                characters -= len(text)
                if characters < 0:
                    return


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
    if len(sys.argv) > 4:
        os.makedirs(work, exist_ok=True)
        model = train_tokenizer(source, f"{work}/tokenizer.json", int(sys.argv[4]))
        encode = DocumentTokenizer(f"{work}/tokens", model, eos_token="<|endoftext|>")
        steps["tokenize"] = (tasks, [JsonlReader(f"{work}/kept"), encode])
    seconds = {}
    for name, (count, pipeline) in steps.items():
        started = time.perf_counter()
        LocalPipelineExecutor(pipeline, tasks=count, workers=tasks, logging_dir=f"{work}/logs/{name}").run()
        seconds[name] = round(time.perf_counter() - started, 2)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()

"""Small views written directly, of any shape, and what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from schemas.order import ORDER_VERSION, PERMUTATION, Order
from schemas.record import end_checksums, frame_examples, record_size

SHA = "0123456789abcdef" * 4
BEGIN, END, PAD = 1, 2, 3


def write_view(
    folder: Path,
    lanes: int = 8,
    groups: int = 3,
    rows: int = 8,
    weights: tuple[int, ...] = (3, 1),
    length: int = 12,
    dtype: str = "<u2",
    held_out: tuple[int, ...] = (3, 4),
) -> np.ndarray:
    """A view whose every record begins with its own number: tokens [shards, rows, length + 1].

    held_out: records of each validation file of the first component. Documents are cut at random; some records have
    padding. Without provenance and units: for reading, not for `verify`.
    """
    folder.mkdir(parents=True)
    names = tuple(f"c{i}" for i in range(len(weights)))
    records = lanes * groups * rows
    available = tuple(records * weight // sum(weights) for weight in weights)
    order = Order(7, lanes, groups, rows, weights, available, names)
    random, count = np.random.default_rng(1), lanes * groups
    tokens = random.integers(10, 30_000, (count, rows, length + 1)).astype(dtype)
    tokens[random.random(tokens.shape) < 0.2] = END
    tokens[..., 0] = 4 + np.arange(records).reshape(count, rows)
    padded = random.random((count, rows)) < 0.3
    tokens[..., -2:][padded] = PAD
    tokens[..., -3][padded] = END
    files = [write_shard(folder / f"train-{k:05d}-of-{count:05d}.tfrecord", matrix) for k, matrix in enumerate(tokens)]
    parts = len(held_out)
    validation = [
        write_shard(
            folder / f"validation-c0-{k:05d}-of-{parts:05d}.tfrecord",
            np.full((many, length + 1), 5 + np.arange(sum(held_out[:k]), sum(held_out[: k + 1]))[:, None], dtype),
        )
        for k, many in enumerate(held_out)
    ]
    manifest = {
        "format_version": 1, "stage": "shard", "fingerprint": SHA, "sequence_length": length,
        "token_dtype": np.dtype(dtype).name, "packing": "concat",
        "tokenizer": {
            "fingerprint": SHA, "vocab_size": 32000, "begin": BEGIN, "end": END, "pad": PAD,
            "fim_begin": 4, "fim_hole": 5, "fim_end": 6,
        },
        "order": {
            "version": ORDER_VERSION, "permutation": PERMUTATION, "seed": order.seed, "period": order.period,
            "components": [
                {"name": n, "weight": w, "requested": 0.5, "realised": 0.5} for n, w in zip(names, weights, strict=True)
            ],
        },
        "components": {
            name: {
                "documents": 0, "tokens": 0, "available": have, "used": have, "unused": 0, "repeats": 1,
                "token_share": 0.5,
            }
            for name, have in zip(names, available, strict=True)
        },
        "splits": {
            "train": {"lanes": lanes, "groups": groups, "rows": rows, "records": records, "files": files},
            "validation": {"c0": {"records": sum(held_out), "files": validation}},
        },
        "provenance": [
            {"path": f"provenance-{Path(file['path']).stem}.parquet", "records": 0, "bytes": 0, "sha256": SHA}
            for file in [*files, *validation]
        ],
        "units": {"path": "units.parquet", "sha256": SHA},
        "conservation": {
            "documents": {"in": 0, "kept": 0, "dropped": {}, "rejected": {}},
            "tokens": {"encoded": 0, "in_records": 0, "repeated": 0, "padding": 0, "unused": 0},
        },
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return tokens


def write_shard(path: Path, tokens: np.ndarray) -> dict[str, object]:
    """Write records; their entry in the manifest."""
    size = record_size(tokens.shape[1] - 1, tokens.dtype)
    with path.open("w+b") as file:
        file.write(frame_examples(tokens))
        ends = end_checksums(file, size, len(tokens))
    return {"path": path.name, "records": len(tokens), "bytes": size * len(tokens), "sha256": SHA, "ends": ends}

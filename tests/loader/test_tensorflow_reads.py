"""TensorFlow itself reads what the pipelines write: frames with their checksums, examples, tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.manifest import ShardManifest, load
from schemas.record import decode_example, read_records


@pytest.mark.slow  # for the seconds that importing TensorFlow takes
def test_tensorflow_reads_every_record_of_a_view(small_run: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415

    folder = small_run / "shards" / "256"
    view = load(ShardManifest, folder / "manifest.json")
    files = [str(folder / file.path) for file in view.splits.train.files]
    dataset = tf.data.TFRecordDataset(files).batch(64)
    feature = {"tokens": tf.io.FixedLenFeature([], tf.string)}
    theirs = [
        tf.io.decode_raw(tf.io.parse_example(batch, feature)["tokens"], view.token_dtype).numpy() for batch in dataset
    ]
    ours = []
    for name in files:
        with open(name, "rb") as file:
            ours += [decode_example(payload, view.token_dtype) for payload in read_records(file)]
    assert len(ours) == view.splits.train.records
    assert np.array_equal(np.concatenate(theirs), np.stack(ours))

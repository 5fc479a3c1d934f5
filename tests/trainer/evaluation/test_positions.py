"""The loss by position is that of the logits, label by label; buckets hold every position once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from loader import Shards
from tests.trainer.training.configs import content
from trainer.evaluation.positions import LossByPosition, edges
from trainer.held_out import HeldOut, weighted
from trainer.mesh import Mesh
from trainer.model import Model
from trainer.training.config import RunConfig, model_config
from trainer.training.validation import Validation


@given(st.integers(16, 1 << 20))
def test_buckets_hold_each_position_once(length: int) -> None:
    found = edges(length)
    assert found[0] == 0
    assert found[-1] == length + 1
    assert found == sorted(set(found))
    # Each is as long as all before it together, the first and the last one aside.
    assert all(high == 2 * low for low, high in pairwise(found[1:-1]))


@pytest.fixture(scope="module")
def model(small_run: Path) -> tuple[Model, Shards]:
    shards = Shards(small_run / "shards/64")
    config = RunConfig.model_validate(content(small_run / "shards/64", Path("unused")))
    return Model(model_config(config, shards), seed=3), shards


@pytest.mark.parametrize("masking", [True, False])
def test_losses_are_those_of_the_logits(model: tuple[Model, Shards], masking: bool) -> None:
    found = LossByPosition(model[0], HeldOut(model[1], Mesh(), 4, None, masking, lambda: None))()
    assert found.keys() == model[1].validation.keys()
    for name, there in model[1].validation.items():
        data = model[1].dataset(there, split="validation", component=name, document_masking=masking)
        (batch,) = (part for part in data)
        tokens, segments, positions, mask = (batch[key] for key in ("tokens", "segment_ids", "positions", "loss_mask"))
        logits = model[0](tokens[:, :-1], segments[:, :-1], positions[:, :-1]).logits
        each = -tf.gather(tf.nn.log_softmax(logits), tokens[:, 1:], batch_dims=2).numpy()
        # The loader marks no label whose document begins with it, so labels are in the segment of the token before.
        labels, at = mask.numpy()[:, 1:], positions.numpy()[:, 1:]
        whole = labels & ((positions.numpy()[:, -1] == 64) & (segments.numpy()[:, -1] == 1))[:, None]
        for curve, chosen in ((found[name].by_position, labels), (found[name].whole_by_position, whole)):
            for low, high, loss, count in zip(curve.edges[:-1], curve.edges[1:], curve.loss, curve.labels, strict=True):
                here = chosen & (at >= low) & (at < high)
                assert count == here.sum()
                assert loss == (pytest.approx(each[here].mean(), rel=1e-5) if count else None)
        assert found[name].labels == labels.sum()
        assert found[name].loss == pytest.approx(each[labels].mean(), rel=1e-5)
        assert found[name].perplexity == pytest.approx(np.exp(each[labels].mean()), rel=1e-4)


def test_it_agrees_with_validation(model: tuple[Model, Shards]) -> None:
    """Of two records each, in batches of two."""
    held_out = HeldOut(model[1], Mesh(), 2, 2, True, lambda: None)
    found = LossByPosition(model[0], held_out)()
    record = Validation(model[0], held_out)(0, 0, 0)
    assert record is not None
    assert {name: each.labels for name, each in found.items()} == record.labels
    assert weighted({name: each.loss for name, each in found.items()}, model[1]) == pytest.approx(record.loss, rel=1e-6)

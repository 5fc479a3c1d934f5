"""Faults put into a training where they would arise: in the gradients of chosen batches, and in batches themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer.step
import trainer.training.trainer
from trainer.accumulation import Accumulated, accumulate
from trainer.training.trainer import Input


class Faults:
    """gradients: by position, what the batch's gradients are multiplied by. garbage: positions whose batches are
    one rare token again and again.
    """

    def __init__(self, gradients: Mapping[int, float] | None = None, garbage: Sequence[int] = ()) -> None:
        self._gradients, self._garbage = gradients or {}, set(garbage)
        self._factor = tf.Variable(1.0)
        self.read: list[int] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """For all trainings until the patch is undone."""
        read = Input.next

        def damaged(batches: Input, sequences: int, position: int) -> dict[str, Any]:
            batch = dict(read(batches, sequences, position))
            self.read.append(position)
            self._factor.assign(self._gradients.get(position, 1.0))
            if position in self._garbage:
                tokens = batch["tokens"].numpy()
                rare = 4 + int(np.bincount(tokens.ravel())[4:].argmin())
                batch["tokens"] = tf.fill(tokens.shape, tf.constant(rare, batch["tokens"].dtype))
            return batch

        def scaled(*arguments: Any) -> Accumulated:
            found = accumulate(*arguments)
            return found._replace(gradients=[self._factor * gradient for gradient in found.gradients])

        patch.setattr(Input, "next", damaged)
        patch.setattr(trainer.step, "accumulate", scaled)

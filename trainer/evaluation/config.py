"""How much is evaluated. Needs no TensorFlow."""

from __future__ import annotations

from pydantic import Field

from trainer.config import Strict


class EvaluationConfig(Strict):
    """How much of each view (docs/evaluation.md).

    records: held-out records of a component of each view, at most, rounded up to batches of 8,192 tokens; None: all.
    depths: places of the needle in a haystack, evenly from 0 % to 100 %.
    samples: haystacks of each length and depth, rounded up to whole batches; 0: no retrieval.
    """

    records: int | None = Field(default=64, ge=1)
    depths: int = Field(default=11, ge=2)
    samples: int = Field(default=10, ge=0)

"""What an evaluation finds, as it is written to evaluation.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ByPosition:
    """Mean cross-entropy by position; a label's position is the number of tokens of its document before it in the
    record.

    edges: bucket i holds positions edges[i] to edges[i + 1] - 1. loss: nats, None where there is no label. labels: how
    many there are.
    """

    edges: Sequence[int]
    loss: Sequence[float | None]
    labels: Sequence[int]


@dataclass(frozen=True)
class Losses:
    """Of one component, or of all. loss: mean cross-entropy in nats a label; perplexity: exp(loss).

    by_position: over all labels. whole_by_position: over records that are one document from their first token to their
    last, so that all buckets hold the same documents.
    """

    loss: float
    perplexity: float
    labels: int
    by_position: ByPosition
    whole_by_position: ByPosition


@dataclass(frozen=True)
class Retrieval:
    """Haystacks of one length. found: share of keys found, by depth. depths: share of the filler before the needle.

    reason: why there are none, where there are none.
    """

    length: int
    depths: Sequence[float]
    found: Sequence[float]
    samples: int
    reason: str | None = None

    @property
    def mean(self) -> float | None:
        """Share of all keys that were found."""
        return sum(self.found) / len(self.found) if self.found else None


@dataclass(frozen=True)
class ViewResult:
    """On one view. loss: of components, weighted by their shares in the view's order."""

    data: str
    sequence_length: int
    loss: float
    perplexity: float
    components: Mapping[str, Losses]
    retrieval: Retrieval


@dataclass(frozen=True)
class Evaluation:
    """Of one model. model: where it was read; step: that it was trained for, None where that is not known; yarn: how
    its rotary positions are stretched.
    """

    model: str
    step: int | None
    yarn: Mapping[str, Any] | None
    seconds: float
    views: Sequence[ViewResult]

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a terminal: a view a line."""
        found = []
        for view in self.views:
            by_component = ", ".join(f"{name} {each.loss:.4f}" for name, each in view.components.items())
            mean = view.retrieval.mean
            needle = f"not measured: {view.retrieval.reason}" if mean is None else f"{mean:.0%}"
            found.append(
                f"length {view.sequence_length:,}  loss {view.loss:.4f} ({by_component})  perplexity "
                f"{view.perplexity:.2f}  retrieval {needle}"
            )
        return found


def losses(loss: float, labels: int, by_position: ByPosition, whole: ByPosition) -> Losses:
    """From the sum over labels."""
    mean = loss / labels
    return Losses(mean, math.exp(mean), labels, by_position, whole)

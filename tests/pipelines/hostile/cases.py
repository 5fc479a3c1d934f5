"""What the parts of the hostile corpus are made with: text of their own, and what is expected of each input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipelines.tokenizer.special import SPECIAL_NAMES
from tests.pipelines.hostile.runs import neighbours

SPELLED = [name for names in SPECIAL_NAMES.values() for name in names] + ["<|begin|>", "<unk>", "<0x0A>", "\u2581"]


def plain(seed: int) -> str:
    """Words of their own, so that no case is a duplicate of another."""
    return neighbours(seed, 1)[0]


@dataclass
class Expected:
    """What must become of a source's inputs: texts of kept documents and reasons of rejects, by their place."""

    texts: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


Made = tuple[list[dict[str, Any]], Expected]
"""A component's sources and what is expected of them."""

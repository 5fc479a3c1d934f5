"""All targets by name."""

from __future__ import annotations

from typing import Final

from tests.fuzz import cleaners, codec, measures, names, readers, rows
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target for module in (readers, rows, cleaners, measures, codec, names) for target in module.TARGETS
}

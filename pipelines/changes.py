"""What a changed config or listing means for a directory that already holds a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from schemas.config import Config
from schemas.manifest import STAGES, Stage

# Keys that change no byte of any output, as patterns on dotted keys.
_INERT = (
    r"shard\.shuffle",
    r"ingest\.max_rejected_fraction",
    r"dedup\.max_(cluster|source)_share",
    r"components\.\w+\.sources\.\d+\.path",  # another root with the same content; the listing tells
    r"dedup\.against",  # likewise; the plan's record of the earlier runs tells
)
# The first stage a key matters to; the first pattern that matches decides.
_AFFECTS: tuple[tuple[str, Stage], ...] = (
    (r"components\.\w+\.weight", "tokenizer"),
    (r"components\.\w+\.max_repeats", "shard"),
    (r"components\.\w+\.fim_rate", "tokenize"),
    (r"components\.\w+\.sources\.\d+\.priority", "dedup"),
    (r"dedup\.(permutations|shingle)", "ingest"),
    (r"(components|ingest|quality)\b.*", "ingest"),
    (r"dedup\..*", "dedup"),
    (r"(seed|tokenizer\..*)", "tokenizer"),
    (r"tokenize\..*", "tokenize"),
    (r".*", "shard"),
)


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for place, inner in enumerate(value):
            yield from _flatten(inner, f"{key}.{place}")
    else:
        yield key, value


def changed_keys(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every key that changes bytes, in config order; views that were added do not."""
    before, after = dict(_flatten(old.model_dump(mode="json"))), dict(_flatten(new.model_dump(mode="json")))
    found: list[tuple[str, Any, Any]] = []
    for key in [*before, *(key for key in after if key not in before)]:
        a, b = before.get(key), after.get(key)
        if a == b or any(re.fullmatch(pattern, key) for pattern in _INERT):
            continue
        if key == "shard.sequence_lengths" and set(a or ()) <= set(b or ()):
            continue
        found.append((key, a, b))
    if list(old.components) != list(new.components) and set(old.components) == set(new.components):
        found.append(("components", list(old.components), list(new.components)))
    return found


def first_affected(keys: list[str]) -> Stage:
    """The first stage that any of the keys matters to."""
    stages = [next(stage for pattern, stage in _AFFECTS if re.fullmatch(pattern, key)) for key in keys]
    return min(stages, key=STAGES.index)

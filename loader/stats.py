"""`stats`: tokens, distinct tokens, documents and padding of sampled records, by split and component.

Of each component of each split the same number of records is drawn without replacement: the images of 0, 1, 2, … under
a permutation keyed by seed, split and component (`schemas.permutation`). A larger sample holds the smaller one, and any
machine draws the same. Sampled records are read by their offset, nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loader.view import IntArray, View
from schemas.errors import Refused
from schemas.manifest import TokenizerInfo
from schemas.order import Permutation

SAMPLES = 1000
_BLOCK_TOKENS = 1 << 22


@dataclass(frozen=True)
class Spread:
    """Of one number a record: its mean, least and largest value in the sample."""

    mean: float
    min: int
    max: int


@dataclass(frozen=True)
class ComponentStatistics:
    """A component in a split. records: all of them; sampled: how many were read.

    tokens: without padding; unique: distinct ones among these; documents: pieces of documents; padding: its share of
    the sampled records' tokens. entropy: of the sample's distribution of single tokens, nats a token: the loss of a
    model that knows how often each token occurs and nothing else.
    """

    split: str
    component: str
    records: int
    sampled: int
    tokens: Spread
    unique: Spread
    documents: Spread
    padding: float
    entropy: float


def statistics(view: View, samples: int = SAMPLES, seed: int = 0) -> tuple[ComponentStatistics, ...]:
    """Statistics of up to `samples` records of each component: train first, each split in the order's components.

    Components without records in a split are left out. The same for the same view, samples and seed.

    Raises:
        Refused: samples is below 1.
        TokenmillError: a shard is absent or damaged; names it.
    """
    if samples < 1:
        raise Refused(f"a sample has at least 1 record, not {samples}")
    found = []
    for split in ("train", "validation"):
        for component, name in enumerate(view.order.names):
            records = _records(view, split, component)
            if records:
                key = f"tokenmill statistics seed {seed} {split} {name}"
                chosen = Permutation(records, key).forward(np.arange(min(samples, records), dtype=np.int64), 0)
                tokens, unique, documents, entropy = _measure(view, *_slots(view, split, component, chosen))
                padding = 1 - int(tokens.sum()) / (len(chosen) * view.capacity)
                spreads = (_spread(tokens), _spread(unique), _spread(documents))
                found.append(ComponentStatistics(split, name, records, len(chosen), *spreads, padding, entropy))
    return tuple(found)


def stats_facts(view: View, samples: int, seed: int) -> dict[str, Any]:
    """`statistics` as JSON values."""
    found = [asdict(part) for part in statistics(view, samples, seed)]
    return {"view": str(view.folder), "length": view.manifest.sequence_length, "seed": seed, "components": found}


def stats_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Statistics for reading."""
    yield f"{facts['view']}: records of {facts['length'] + 1:,} tokens, sampled with seed {facts['seed']}"
    for part in facts["components"]:
        yield ""
        share = f"{100 * part['padding']:.2f} % padding, unigram entropy {part['entropy']:.3f} nats a token"
        yield f"{part['split']}, {part['component']}: {part['sampled']:,} of {part['records']:,} records, {share}"
        yield f"  {'a record':<12}{'mean':>12}{'min':>10}{'max':>10}"
        for name in ("tokens", "unique", "documents"):
            spread = part[name]
            yield f"  {name:<12}{spread['mean']:>12,.1f}{spread['min']:>10,}{spread['max']:>10,}"


def _records(view: View, split: str, component: int) -> int:
    if split == "train":
        return view.order.counts[component]
    return sum(view.shards[number].file.records for number in view.held_out(component))


def _slots(view: View, split: str, component: int, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """(shard, row) of some of a component's records, numbered by their occurrence in the split."""
    order = view.order
    if split == "train":
        places = np.flatnonzero(order.component_at(np.arange(order.tile)) == component)
        tile, offset = np.divmod(chosen, len(places))
        return order.locate(tile * order.tile + places[offset])
    return view.locate_held_out(component, chosen)


def _measure(view: View, shard: IntArray, row: IntArray) -> tuple[IntArray, IntArray, IntArray, float]:
    """(tokens, unique, documents) of records, each int64 [records], in any order, and the entropy of their tokens."""
    at_once = max(1, _BLOCK_TOKENS // view.capacity)
    info = view.manifest.tokenizer
    parts, occurrences = [], np.zeros(info.vocab_size, np.int64)
    for number in np.unique(shard).tolist():
        rows = np.sort(row[shard == number])
        for first in range(0, len(rows), at_once):
            records = view.tokens(number, rows[first : first + at_once])
            parts.append(count_tokens(records, info))
            occurrences += np.bincount(records[records != info.pad], minlength=info.vocab_size)
    tokens, unique, documents = (np.concatenate(part) for part in zip(*parts, strict=True))
    return tokens, unique, documents, unigram_entropy(occurrences)


def unigram_entropy(occurrences: IntArray) -> float:
    """-sum p ln p over ids that occur, p their share: nats. occurrences: int64 [vocabulary], at least one above 0."""
    p = occurrences[occurrences > 0] / occurrences.sum()
    return float(-(p * np.log(p)).sum())


def count_tokens(records: npt.NDArray[np.integer[Any]], info: TokenizerInfo) -> tuple[IntArray, IntArray, IntArray]:
    """(tokens without padding, distinct ones among them, pieces of documents) of records [n, L + 1]; int64 [n] each.

    A piece begins with the record, with a begin token and after an end token.
    """
    filled = records != info.pad
    ordered = np.sort(records, axis=1)
    new = np.diff(ordered, axis=1) != 0
    unique = new.sum(axis=1) + 1 - ~filled.all(axis=1)
    begins = records == info.begin
    begins[:, 1:] |= records[:, :-1] == info.end
    begins[:, 0] = True
    return filled.sum(axis=1), unique, (begins & filled).sum(axis=1)


def _spread(values: IntArray) -> Spread:
    return Spread(float(values.mean()), int(values.min()), int(values.max()))

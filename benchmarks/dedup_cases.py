"""Families of documents that are hard to deduplicate, each for one reason: what may not happen, and whether it does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.dedup_runs import run_datatrove, run_tokenmill, write_inputs
from benchmarks.planted import LICENCES, Document
from benchmarks.truth import UNLIKE, all_pairs
from schemas.config import Dedup

TEMPLATES = 300
IDENTICAL = 100_000
MOST_SECONDS = 120  # dedup of the identical signatures takes a tenth of it here
MOST_BYTES = 1 << 30  # in one process; their signatures alone are a tenth of it
CHAINS = 100
LINKS = 300
WINDOW, SHIFT = 600, 45  # tokens: neighbours have J = 551/641, those two apart 506/686


@dataclass(frozen=True)
class Case:
    """facts: what happened, by name; broken: sentences about what may not happen and did."""

    name: str
    facts: dict[str, float]
    broken: list[str]

    def line(self) -> str:
        """What to print."""
        return f"{self.name}: " + ", ".join(f"{name}: {value:g}" for name, value in self.facts.items())


def measure(work: Path, datatrove: str | None) -> list[Case]:
    """Run all families, in folders below `work`."""
    return [
        templates(work / "templates", datatrove),
        identical_signatures(work / "identical"),
        chains(work / "chains", datatrove),
    ]


def templates(work: Path, datatrove: str | None) -> Case:
    """Files that share a licence and a frame and differ in their body: alike, but too little to be dropped."""
    chance = random.Random(1)
    frame = _words(chance, 350)
    documents = []
    for i in range(TEMPLATES):
        body = _words(chance, 140)
        documents.append(Document(f"template-{i}", "\n".join([LICENCES[0], *frame[:175], *body, *frame[175:]])))
    pairs = all_pairs([document.text for document in documents], Dedup().shingle)
    inputs = write_inputs(documents, work / "inputs")
    ours = run_tokenmill(documents, inputs, work / "tokenmill")
    facts = {
        "documents": len(documents),
        "pairs": len(pairs.of) // 2,
        "lowest J": float(pairs.jaccard.min().round(3)),
        "highest J": float(pairs.jaccard.max().round(3)),
        "drops": int(ours.dropped.sum()),
    }
    if datatrove:
        facts["drops by datatrove"] = int(run_datatrove(documents, inputs, work / "datatrove", datatrove).sum())
    broken = [f"templates: {facts['drops']} files were dropped, none is alike"] if facts["drops"] else []
    return Case("templates", facts, broken)


def identical_signatures(work: Path) -> Case:
    """Texts of the same words with other punctuation: one bucket in every band, and no exact copies."""
    words = _words(random.Random(2), 60)
    bits = (IDENTICAL - 1).bit_length()
    documents = []
    for i in range(IDENTICAL):
        marks = [",;"[i >> bit & 1] for bit in range(bits)] + [""] * (len(words) - bits)
        text = " ".join(word + mark for word, mark in zip(words, marks, strict=True))
        documents.append(Document(f"identical-{i}", text))
    ours = run_tokenmill(documents, write_inputs(documents, work / "inputs"), work / "tokenmill")
    kept = np.flatnonzero(~ours.dropped)
    facts = {
        "documents": len(documents),
        "distinct signatures": len(np.unique(ours.signatures, axis=0)),
        "kept": len(kept),
        "dedup seconds": round(ours.seconds["dedup"], 1),
        "peak MB in a process": round(ours.peak_bytes / 1e6),
    }
    broken = []
    if len(kept) != 1 or np.any(ours.kept_for[ours.dropped] != kept[0]) or np.any(ours.similarity[ours.dropped] != 1):
        broken.append("identical signatures: not all are dropped for one")
    if ours.seconds["dedup"] > MOST_SECONDS:
        broken.append(f"identical signatures: {ours.seconds['dedup']:.0f} s, more than {MOST_SECONDS}")
    if ours.peak_bytes > MOST_BYTES:
        broken.append(f"identical signatures: {ours.peak_bytes / 1e6:.0f} MB in one process")
    return Case("identical signatures", facts, broken)


def chains(work: Path, datatrove: str | None) -> Case:
    """Windows that move over words: neighbours are alike, others are not. Triples A, B, C; and one long chain."""
    chance = random.Random(3)
    documents = [Document(f"triple-{i}-{j}", text) for i in range(CHAINS) for j, text in enumerate(_windows(chance, 3))]
    documents += [Document(f"link-{i}", text) for i, text in enumerate(_windows(chance, LINKS))]
    pairs = all_pairs([document.text for document in documents], Dedup().shingle)
    inputs = write_inputs(documents, work / "inputs")
    ours = run_tokenmill(documents, inputs, work / "tokenmill")
    gone = np.flatnonzero(ours.dropped)
    false = int((pairs.similarity(gone, ours.kept_for[gone]) < UNLIKE).sum())
    facts = {"triples": CHAINS, **_chain_facts(ours.dropped, ""), "drops": len(gone), f"with J < {UNLIKE}": false}
    if datatrove:
        facts |= _chain_facts(run_datatrove(documents, inputs, work / "datatrove", datatrove), " by datatrove")
    broken = [f"chains: {false} documents were dropped for one they are not like"] if false else []
    if facts["of A, B, C only B dropped"] < 0.95 * CHAINS:
        broken.append("chains: A and C are not both kept")
    if facts[f"of {LINKS} links kept"] < LINKS / 3:
        broken.append("chains: the long chain is merged")
    return Case("chains", facts, broken)


def _chain_facts(dropped: np.ndarray, by: str) -> dict[str, float]:
    """How many triples lost their middle only, how many kept one document, and what is left of the long chain."""
    triples = dropped[: 3 * CHAINS].reshape(CHAINS, 3)
    return {
        f"of A, B, C only B dropped{by}": int((triples == [False, True, False]).all(axis=1).sum()),
        f"one kept{by}": int((triples.sum(axis=1) == 2).sum()),
        f"of {LINKS} links kept{by}": int((~dropped[3 * CHAINS :]).sum()),
    }


def _windows(chance: random.Random, count: int) -> Sequence[str]:
    words = _words(chance, WINDOW + (count - 1) * SHIFT)
    return [" ".join(words[i * SHIFT : i * SHIFT + WINDOW]) for i in range(count)]


def _words(chance: random.Random, count: int) -> list[str]:
    """Invented words of one length, so that texts of as many words are equally long and the first is kept first."""
    return ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(count)]

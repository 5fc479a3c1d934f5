"""Deduplication against the truth: all-pairs exact Jaccard similarities of real documents with planted edits.

    python benchmarks/dedup_quality.py [--corpus DIR]... [--documents N] [--datatrove PYTHON] [--json FILE]

Takes N real documents (as many from the standard library of this Python as from each --corpus; long files are cut), N
edited ones and exact copies. Deduplicates them with `python -m pipelines run`, by signatures and with `check: text`;
with datatrove too where the Python of an environment that has it is given. Scores all of them. Then some families of
documents that are hard for one reason each. docs/dedup_quality.md says what the numbers mean.
Exits with 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that a checkout need not be installed

from benchmarks import dedup_cases, planted
from benchmarks.dedup_runs import Ours, run_datatrove, run_tokenmill, write_inputs
from benchmarks.truth import ALIKE, UNLIKE, Pairs, Recall, all_pairs, recalls, simplified
from pipelines.minhash import band_keys, estimated_jaccard
from schemas.config import Dedup

SEED = 17
SETTINGS = Dedup()
LEAST_RECALL = 0.99
MOST_FALSE = 0.001
DATATROVE = "datatrove"
CAUSES = ("twin itself dropped", "estimate below threshold", "no common bucket", "not compared")


@dataclass(frozen=True)
class Score:
    """What one tool did.

    kept_twin: recall over documents with a twin that was kept; any_twin: over those with a twin that was kept or comes
    earlier by priority. false_drops: drops unlike all that was kept; false_named: unlike the one the drop names.
    pairs_left: alike pairs of which both were kept. causes: of the misses of `any_twin` from `ALIKE` on. What asks for
    priorities or names is None for a tool without.
    """

    tool: str
    drops: int
    kept_twin: list[Recall]
    false_drops: int
    pairs_left: int
    any_twin: list[Recall] | None = None
    false_named: int | None = None
    causes: dict[str, int] | None = None


def score(tool: str, pairs: Pairs, dropped: NDArray[np.bool_]) -> Score:
    """Judge by what was dropped alone, as all tools can be."""
    to_kept = ~dropped[pairs.twin]
    best = pairs.best(to_kept)
    left = to_kept & ~dropped[pairs.of] & (pairs.jaccard >= ALIKE)
    return Score(
        tool=tool,
        drops=int(dropped.sum()),
        kept_twin=recalls(best, dropped),
        false_drops=int((best[dropped] < UNLIKE).sum()),
        pairs_left=int(left.sum()) // 2,
    )


def score_ours(tool: str, pairs: Pairs, ours: Ours) -> Score:
    """Judge also by the priorities and by the documents that the drops name."""
    best = pairs.best(~ours.dropped[pairs.twin] | (ours.rank[pairs.twin] < ours.rank[pairs.of]))
    gone = np.flatnonzero(ours.dropped)
    causes = dict.fromkeys(CAUSES, 0)
    for document in np.flatnonzero((best >= ALIKE) & ~ours.dropped).tolist():
        causes[_cause(document, pairs, ours)] += 1
    return replace(
        score(tool, pairs, ours.dropped),
        any_twin=recalls(best, ours.dropped),
        false_named=int((pairs.similarity(gone, ours.kept_for[gone]) < UNLIKE).sum()),
        causes=causes,
    )


def _cause(document: int, pairs: Pairs, ours: Ours) -> str:
    """Why a document with an alike twin was kept, by the kept twin that came nearest to having it dropped."""
    kept = pairs.twin[(pairs.of == document) & (pairs.jaccard >= ALIKE) & ~ours.dropped[pairs.twin]]
    if not len(kept):
        return "twin itself dropped"
    own = ours.signatures[document : document + 1]
    close = estimated_jaccard(ours.signatures[kept], own) >= SETTINGS.threshold
    if not close.any():
        return "estimate below threshold"
    shared = band_keys(ours.signatures[kept], SETTINGS.bands) == band_keys(own, SETTINGS.bands)
    return "not compared" if (close & shared.any(axis=1)).any() else "no common bucket"


def broken(scores: Sequence[Score]) -> list[str]:
    """The bounds that the first of the scores, tokenmill's at its defaults, misses."""
    ours, *others = scores
    recall = ours.kept_twin[-1].share
    found = []
    if recall < LEAST_RECALL:
        found.append(f"recall at J ≥ {ALIKE} is {recall:.4f}, below {LEAST_RECALL}")
    if (ours.false_named or 0) > MOST_FALSE * ours.drops:
        found.append(f"{ours.false_named} of {ours.drops} drops are false, more than {MOST_FALSE:.1%}")
    for other in others:
        if other.tool == DATATROVE and recall < other.kept_twin[-1].share:
            found.append("recall is worse than datatrove's")
        if other.tool == DATATROVE and ours.false_drops * other.drops > other.false_drops * ours.drops:
            found.append("more of the drops are false than of datatrove's")
    return found


def table(scores: Sequence[Score]) -> list[str]:
    """A line a number, a column a tool."""
    lines: list[tuple[str, list[object]]] = [("", [one.tool for one in scores])]
    lines.append(("drops", [one.drops for one in scores]))
    lines.append((f"drops, J < {UNLIKE} to the one named", [one.false_named for one in scores]))
    lines.append((f"drops, J < {UNLIKE} to all that is kept", [one.false_drops for one in scores]))
    lines.append((f"pairs left, J ≥ {ALIKE}", [one.pairs_left for one in scores]))
    lines += _recall_lines("recall, kept twin", [one.kept_twin for one in scores])
    lines += _recall_lines("recall, kept or earlier twin", [one.any_twin for one in scores])
    for cause in CAUSES:
        lines.append((f"missed: {cause}", [one.causes and one.causes[cause] for one in scores]))
    cells = [(title, *("–" if value is None else str(value) for value in values)) for title, values in lines]
    return [f"{line[0]:48}" + "".join(f"{cell:>25}" for cell in line[1:]) for line in cells]


def _recall_lines(title: str, columns: Sequence[list[Recall] | None]) -> list[tuple[str, list[object]]]:
    """A line a bin."""
    lines: list[tuple[str, list[object]]] = []
    for i, first in enumerate(columns[0] or []):
        cells = [column and f"{column[i].dropped}/{column[i].documents} {column[i].share:.4f}" for column in columns]
        lines.append((f"{title}, {first.label}", list(cells)))
    return lines


def measure(
    corpus: Sequence[Path], count: int, datatrove: str | None, work: Path
) -> tuple[list[Score], dict[str, float]]:
    """Make the documents, run the tools, score them; and facts about the set."""
    documents = planted.corpus(corpus, count, SEED)
    texts = [document.text for document in documents]
    inputs = write_inputs(documents, work / "inputs")
    started = time.perf_counter()
    pairs = all_pairs(texts, SETTINGS.shingle)
    facts = {
        "documents": len(documents),
        "real": sum(document.kind == "real" for document in documents),
        "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
        f"pairs with J ≥ {ALIKE}": int((pairs.jaccard >= ALIKE).sum()) // 2,
        "seconds to compare all pairs": round(time.perf_counter() - started, 1),
    }
    scores = [score_ours("tokenmill", pairs, run_tokenmill(documents, inputs, work / "signature"))]
    by_text = run_tokenmill(documents, inputs, work / "text", check="text")
    scores.append(score_ours("tokenmill, check: text", pairs, by_text))
    if datatrove:
        dropped = run_datatrove(documents, inputs, work / "datatrove", datatrove)
        scores.append(score(DATATROVE, pairs, dropped))
        own_form = all_pairs([simplified(text) for text in texts], SETTINGS.shingle)
        scores.append(score(f"{DATATROVE}, in its form", own_form, dropped))
    return scores, facts


def main() -> int:
    """Print the tables; 0 when every bound is kept, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", metavar="DIR", type=Path, action="append", default=[], help="a tree of text files")
    parser.add_argument("--documents", metavar="N", type=int, default=5000, help="real documents (default: 5000)")
    parser.add_argument("--datatrove", metavar="PYTHON", help="of an environment that has datatrove[processing]")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers there too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scores, facts = measure(given.corpus, given.documents, given.datatrove, Path(folder))
        print(", ".join(f"{name}: {value}" for name, value in facts.items()))
        print("\n".join(table(scores)), flush=True)
        cases = dedup_cases.measure(Path(folder), given.datatrove)
    print("\n".join(case.line() for case in cases))
    failures = [*broken(scores), *(failure for case in cases for failure in case.broken)]
    if given.json:
        content = {"set": facts, "scores": [asdict(one) for one in scores], "cases": [asdict(case) for case in cases]}
        given.json.write_text(json.dumps({**content, "missed": failures}, indent=1) + "\n", encoding="utf-8")
    for failure in failures:
        print(f"missed: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

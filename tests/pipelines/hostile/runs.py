"""Running the real commands over a hostile corpus, and reading all that a run says of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import loader.cli
from pipelines.tokenizer import Tokenizer
from schemas.record import decode_example, read_records
from tests.conftest import ROOT
from tests.pipelines.tiny import words

ONE = "--direct_num_workers=1"
UNSHOWABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What may move a terminal's cursor, colour it, or turn the direction of its text. A line feed is left out."""


def command(
    *arguments: str | bytes | Path,
    module: str = "pipelines",
    before: Callable[[], None] | None = None,
    seconds: int = 300,
) -> tuple[int, str, str]:
    """A command as a user types it: (exit code, standard output, standard error). before: runs in the new process."""
    made = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=seconds,
        preexec_fn=before,
    )
    return made.returncode, *(text.decode("utf-8", "surrogateescape") for text in (made.stdout, made.stderr))


def run(config: Path, output: Path, *options: str, **more: Any) -> tuple[int, str, str]:
    """`run` in one worker."""
    return command("run", config, "--output", output, ONE, *options, **more)


def the_error(stderr: str) -> str:
    """The one sentence a failed command ends with; nothing in it disturbs a terminal, and there is no traceback."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and stderr.rstrip().endswith(lines[0]), stderr
    assert not UNSHOWABLE.search(stderr), ascii(stderr)
    return lines[0]


def settings(components: dict[str, list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    """A config of components of equal weight with these sources, whose whole run takes seconds."""
    return {
        "seed": 5,
        "components": {
            name: {"weight": 1 / len(components), "sources": sources} for name, sources in components.items()
        },
        "ingest": {"max_rejected_fraction": 1.0},
        "quality": {"rules": False},
        "tokenizer": {"vocab_size": 320, "sample_characters": 20_000},
        "shard": {"sequence_lengths": [64], "lanes": 2, "shard_bytes": 20_000},
        "validation": {"fraction": 0.05},
        **more,
    }


def neighbours(first: int, count: int = 12) -> list[str]:
    """Documents with nothing wrong, which must arrive whole beside all that is."""
    return [words(first + number, 120) for number in range(count)]


def _rows(run: Path, pattern: str, columns: list[str]) -> list[dict[str, Any]]:
    return [row for path in sorted(run.glob(pattern)) for row in pq.read_table(path, columns=columns).to_pylist()]


def kept(run: Path) -> dict[str, str]:
    """The text of each document that passed ingest, by its source."""
    rows = _rows(run, "documents/*/documents-*.parquet", ["source", "text"])
    assert len({row["source"] for row in rows}) == len(rows)
    return {row["source"]: row["text"] for row in rows}


def rejected(run: Path) -> dict[str, str]:
    """The reason of each reject of ingest, by its source."""
    rows = _rows(run, "documents/*/rejected-*.parquet", ["source", "reason", "detail", "sample"])
    for row in rows:
        assert not UNSHOWABLE.search("".join(row.values())) and "\n" not in "".join(row.values()), row
        assert len(row["sample"]) <= 200
    assert len({row["source"] for row in rows}) == len(rows)
    return {row["source"]: row["reason"] for row in rows}


def check_whole(run: Path) -> None:
    """The laws of a finished run, from outside: counts, tokens of every document, and its records' tokens.

    Every document that was not dropped decodes from its tokens to its text, holds no special token but the begin and
    end around it, and lies in the records its provenance names, token for token.
    """
    sources = _conserved(run)
    assert loader.cli.main(["verify", str(run)]) == 0
    tokenizer = Tokenizer.load(run / "tokenizer" / "tokenizer.model")
    specials = {getattr(tokenizer, name) for name in ("begin", "end", "pad", "fim_begin", "fim_hole", "fim_end")}
    tokens = {row["id"]: row["tokens"] for row in _rows(run, "tokens/*/tokens-*.parquet", ["id", "tokens"])}
    for id_, text in sources.items():
        ids = tokens[id_]
        assert ids[0] == tokenizer.begin and ids[-1] == tokenizer.end
        assert not specials & set(ids[1:-1])
        assert tokenizer.decode(ids) == text
    for path in sorted(run.glob("shards/*/manifest.json")):
        _check_records(path.parent, tokens)


def _conserved(run: Path) -> dict[str, str]:
    """documents: in = kept + dropped + rejected, counted from the files; the texts of kept documents by id."""
    dropped = {row["id"] for row in _rows(run, "dedup/*/drops-*.parquet", ["id"])}
    later = _rows(run, "tokens/*/rejected-*.parquet", ["detail"])
    gone = dropped | {row["detail"].rpartition(" ")[2] for row in later}
    texts = {row["id"]: row["text"] for row in _rows(run, "documents/*/documents-*.parquet", ["id", "text"])}
    counted: Counter[str] = Counter()
    for path in sorted(run.glob("documents/*/manifest.json")):
        counted.update(json.loads(path.read_text())["counts"])
    rejects = len(_rows(run, "documents/*/rejected-*.parquet", ["reason"])) + len(later)
    kept_texts = {id_: text for id_, text in texts.items() if id_ not in gone}
    assert counted["documents_in"] == len(kept_texts) + len(dropped) + rejects
    return kept_texts


def _check_records(view: Path, tokens: dict[str, list[int]]) -> None:
    """Every span of the view's provenance against the tokens of its document."""
    whole = json.loads((view / "manifest.json").read_text())
    records: dict[str, list[list[int]]] = {}
    for path in sorted(view.glob("*.tfrecord")):
        with path.open("rb") as file:
            records[path.name] = [decode_example(data, whole["token_dtype"]).tolist() for data in read_records(file)]
    spans = _rows(view, "provenance-*.parquet", ["shard", "row", "document", "start", "length"])
    assert spans
    held: dict[str, set[tuple[int, int]]] = {id_: set() for id_ in tokens}
    for span in spans:
        part = tokens[span["document"]][span["start"] : span["start"] + span["length"]]
        text = ",".join(map(str, records[span["shard"]][span["row"]]))
        assert f",{','.join(map(str, part))}," in f",{text},"
        held[span["document"]].add((span["start"], len(part)))
    # The mixture may have no place for some sequences; of each component whole documents lie in the view.
    whole_ones = {id_ for id_, parts in held.items() if sum(length for _, length in parts) == len(tokens[id_])}
    assert {id_.split("/")[0] for id_ in whole_ones} == {id_.split("/")[0] for id_ in tokens}

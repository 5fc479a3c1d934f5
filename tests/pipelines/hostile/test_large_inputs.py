"""Inputs larger than they look, and larger than they may be: the peak of memory is measured and bounded."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.sources.base import MAX_DOCUMENT_BYTES
from pipelines.tokenizer import Tokenizer
from tests.pipelines.hostile.runs import check_whole, command, kept, neighbours, rejected, run, settings
from tests.pipelines.tiny import write_config

IDLE = 400 << 20
"""Bytes of memory a run takes for a corpus of nothing, with room for another machine."""
BLOCK = bytes(32 << 20)
MANY, ENOUGH = 34, 9  # together more than 1 GiB, and more than a document may have


def peak(output: Path) -> int:
    """The most memory that one process of a finished run held."""
    facts = json.loads((output / "run.json").read_text())
    return int(max(facts["peak_driver_bytes"], facts["peak_worker_bytes"]))


def lines_of(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def write_bombs(folder: Path) -> dict[str, str]:
    """Small files of much content, in one line or member; returns the expected reasons by place."""
    folder.mkdir()
    reasons: dict[str, str] = {}
    for number, (ending, pack, count) in enumerate([("gz", gzip.compress, MANY), ("zst", zstandard.compress, ENOUGH)]):
        first, last = (lines_of(neighbours(6000 + 100 * number + at, 1)) for at in (0, 50))
        bomb = pack(first) + pack(BLOCK) * count + pack(b"\n") + pack(last)
        (folder / f"bomb.jsonl.{ending}").write_bytes(bomb)
        assert len(bomb) < 4 << 20
        reasons[f"bomb.jsonl.{ending}#{len(first)}"] = "line_too_long"
    member = tarfile.TarInfo("bomb.bin")
    member.size = len(BLOCK) * ENOUGH
    good = io.BytesIO()
    text = neighbours(6200, 1)[0].encode()
    with tarfile.open(fileobj=good, mode="w") as archive:
        info = tarfile.TarInfo("good.py")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    packed = gzip.compress(member.tobuf()) + gzip.compress(BLOCK) * ENOUGH + gzip.compress(good.getvalue())
    (folder / "bomb.tar.gz").write_bytes(packed)
    reasons["bomb.tar.gz#bomb.bin"] = "file_too_long"
    # One value of 4 MB in a dictionary, and 400 rows that are it.
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([bytes(4 << 20)]))
    pq.write_table(pa.table({"text": values}), folder / "bomb.parquet", store_schema=False)
    reasons |= {f"bomb.parquet#{row}": "binary" for row in range(400)}
    return reasons


def run_of(folder: Path, sources: list[dict[str, str]]) -> Path:
    """A finished run of one component."""
    more = {"validation": {"fraction": 0}, "tokenizer": {"vocab_size": 300, "sample_characters": 10_000}}
    config = write_config(folder / "config.yaml", settings({"prose": sources}, **more))
    code, out, err = run(config, folder / "run")
    assert code == 0, out + err
    return folder / "run"


def test_bombs_are_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    reasons = write_bombs(tmp_path / "in")
    output = run_of(tmp_path, [{"path": str(tmp_path / "in"), "format": form} for form in ("jsonl", "parquet", "tar")])
    # A line is held until it is known to be too long, and put together once; rows of a dictionary come a few at a time.
    assert peak(output) < IDLE + 3 * MAX_DOCUMENT_BYTES
    assert rejected(output) == reasons
    assert len(kept(output)) == 2 + 2 + 1
    check_whole(output)


@pytest.mark.slow
def test_any_number_of_rejects_takes_no_memory(tmp_path: Path) -> None:
    count, good = 300_000, neighbours(6300, 6)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b"x\n" * count + lines_of(good)))
    output = run_of(tmp_path, [{"path": str(tmp_path / "in.jsonl.gz"), "format": "jsonl"}])
    assert peak(output) < IDLE
    assert sorted(kept(output).values()) == sorted(good)
    (path,) = output.glob("documents/prose/rejected-*.parquet")
    offsets = pq.read_table(path, columns=["offset"])["offset"].to_pylist()
    assert offsets == list(range(0, 2 * count, 2))


def lines_of_code(size: int, line: str) -> Iterator[str]:
    """Text of at most `size` characters in which every line is another."""
    count = size // (len(line) + 9)
    for start in range(0, count, 10_000):
        yield "".join(f"{line}{number:08d}\n" for number in range(start, min(count, start + 10_000)))


@pytest.mark.slow
def test_a_line_of_200_megabytes_arrives_whole(tmp_path: Path) -> None:
    long = "".join(lines_of_code(200_000_000, "    for repetition in configuration.repetitions(environment): print "))
    good = neighbours(7000, 6)
    with (tmp_path / "in.jsonl").open("wb") as file:
        file.write(lines_of([good[0], long, *good[1:]]))
    shard = {"sequence_lengths": [8192], "lanes": 2, "shard_bytes": 16_000_000}
    more = {"shard": shard, "validation": {"fraction": 0}}
    config = settings({"code": [{"path": str(tmp_path / "in.jsonl"), "format": "jsonl"}]}, **more)
    output = tmp_path / "run"
    code, out, err = run(write_config(tmp_path / "config.yaml", config), output)
    assert code == 0, out + err
    assert peak(output) < IDLE + 16 * len(long)
    same = sorted(kept(output).values()) == sorted([*good, long.rstrip("\n")])
    assert same  # the texts are too long to be shown when they differ
    code, out, err = command("verify", output, module="loader")
    assert code == 0, out + err
    tokenizer = Tokenizer.load(output / "tokenizer" / "tokenizer.model")
    path = max(output.glob("tokens/code/tokens-*.parquet"), key=lambda path: path.stat().st_size)
    tokens = pq.read_table(path)
    row = int(np.argmax(tokens["count"]))
    same = tokenizer.decode(tokens["tokens"][row].values.to_numpy()) == long.rstrip("\n")
    assert same


@pytest.mark.slow
def test_a_document_at_the_limit_is_kept_and_those_above_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    line = f"{'initialization_of_parameters_' * 4} = "
    most = "".join(lines_of_code(MAX_DOCUMENT_BYTES - 1, line)).ljust(MAX_DOCUMENT_BYTES, "x")
    (folder / "at.py").write_text(most)
    for name, size in (("above.py", MAX_DOCUMENT_BYTES + 1), ("huge.py", 1 << 30)):
        with (folder / name).open("wb") as sparse:
            sparse.truncate(size)
    value = pa.array(["y " * (MAX_DOCUMENT_BYTES // 2) + "y"])  # Parquet has no limit of its own
    pq.write_table(pa.table({"text": value}), tmp_path / "in.parquet")
    del value
    sources = [{"path": str(folder), "format": "files"}, {"path": str(tmp_path / "in.parquet"), "format": "parquet"}]
    config = write_config(tmp_path / "config.yaml", settings({"code": sources}))
    output = tmp_path / "run"
    code, out, err = run(config, output, "--stages", "ingest")
    assert code == 0, out + err
    assert peak(output) < IDLE + 16 * MAX_DOCUMENT_BYTES
    assert rejected(output) == {
        "above.py": "file_too_long",
        "huge.py": "file_too_long",
        "in.parquet#0": "text_too_long",
    }
    same = kept(output)["at.py"] == most
    assert same

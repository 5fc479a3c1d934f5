"""Files that are whole and hashed right, but do not tell one story: the laws are counted anew from what they hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.manifest import ShardManifest, load
from schemas.order import Order
from tests.loader.forge import (
    Rows,
    check,
    edit_json,
    edit_table,
    provenance,
    read_matrix,
    shift_count,
    told,
    write_matrix,
)
from tests.loader.test_verify_files import only

PAD = 3


def order_of(view: Path) -> Order:
    manifest = load(ShardManifest, view / "manifest.json")
    train, parts = manifest.splits.train, manifest.order.components
    available = tuple(manifest.components[part.name].available for part in parts)
    weights, names = tuple(part.weight for part in parts), tuple(part.name for part in parts)
    return Order(manifest.order.seed, train.lanes, train.groups, train.rows, weights, available, names)


def slot(order: Order, position: int) -> tuple[int, int]:
    """(shard, row) of a position."""
    shard, row = order.locate(position)
    return int(shard), int(row)


def set_row(column: str, value: Any, row: int = 0) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[row][column] = value(rows[row][column]) if callable(value) else value
        return rows

    return change


def with_rows(run: Path, pattern: str, least: int = 2) -> Path:
    """The first file of a pattern with at least so many rows."""
    return next(path for path in sorted(run.glob(pattern)) if pq.ParquetFile(path).metadata.num_rows >= least)


# Documents, drops, tokens


def test_an_altered_text_is_told(stages: Path) -> None:
    path = with_rows(stages, "documents/code/documents-*.parquet")
    edit_table(path, set_row("text", lambda text: text.replace("e", "3")))
    assert told(stages, path.name, "code/0/0", "does not match its hash")


def test_a_document_that_vanished_is_told(stages: Path) -> None:
    path = with_rows(stages, "documents/code/documents-*.parquet")
    edit_table(path, lambda rows: rows[:1] + rows[2:])
    assert told(stages, path.name, "row 1 has the id code/0/2")


def test_a_document_that_was_never_tokenized_is_told(stages: Path) -> None:
    path = with_rows(stages, "tokens/code/tokens-*.parquet")
    gone = pq.read_table(path)["id"][1].as_py()
    edit_table(path, lambda rows: rows[:1] + rows[2:])
    assert told(stages, path.name, gone, "neither kept, dropped nor rejected")


def test_a_document_dropped_and_tokenized_is_told(stages: Path) -> None:
    tokens = with_rows(stages, "tokens/code/tokens-*.parquet")
    kept = pq.read_table(tokens)["id"][0].as_py()
    drops = with_rows(stages, "dedup/code/drops-*.parquet", 1)

    def drop_it_too(rows: Rows) -> Rows:
        unit = drops.name.split("-")[1].lstrip("0") or "0"
        row = next(row for row in range(100) if row not in {drop["row"] for drop in rows})
        return [{**rows[0], "id": f"code/{unit}/{row}", "row": row, "kept_id": kept}, *rows]

    edit_table(drops, drop_it_too)
    assert told(stages, "tokens-", "more than one of kept, dropped and rejected")


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("kept_id", "code/0/99999", "which does not exist or is dropped itself"),
        ("kept_id", "prose/0/1", "which does not exist or is dropped itself"),
        ("kept_id", "code/0", "which does not exist or is dropped itself"),
        ("id", "code/0/0", "not of this unit"),
        ("row", lambda row: row + 1, "another row"),
        ("jaccard", 0.5, "at a similarity of 0.5000"),
        ("jaccard", float("nan"), "at a similarity of nan"),
        ("reason", "boring", "'boring' is no reason"),
    ],
)
def test_a_drop_without_evidence_is_told(stages: Path, column: str, value: Any, sentence: str) -> None:
    path = sorted(stages.glob("dedup/code/drops-*.parquet"))[-1]
    while pq.ParquetFile(path).metadata.num_rows == 0:
        path = path.with_name(path.name.replace(path.name[6:11], f"{int(path.name[6:11]) - 1:05d}"))
    edit_table(path, set_row(column, value))
    assert told(stages, path.name, sentence)


def test_a_drop_for_a_dropped_document_is_told(stages: Path) -> None:
    path = with_rows(stages, "dedup/code/drops-*.parquet")
    edit_table(path, lambda rows: [{**rows[0], "kept_id": rows[1]["id"]}, *rows[1:]])
    assert told(stages, path.name, "dropped itself")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda ids: [9, *ids[1:]], "from begin to end"),
        (lambda ids: [*ids[:-1], 9], "from begin to end"),
        (lambda ids: [*ids[:4], PAD, *ids[5:]], "from begin to end"),
        (lambda ids: [*ids[:4], 2, 1, *ids[6:]], "from begin to end"),
        (lambda ids: [*ids[:4], 800, *ids[5:]], "from begin to end"),
        (lambda ids: ids[:4] + ids[5:], "another number of tokens"),
    ],
)
def test_altered_tokens_are_told(stages: Path, change: Callable[[list[int]], list[int]], sentence: str) -> None:
    path = with_rows(stages, "tokens/code/tokens-*.parquet")
    edit_table(path, set_row("tokens", change))
    assert told(stages, sentence)


# Records


def test_other_tokens_than_those_in_the_records_are_told(run: Path) -> None:
    path = with_rows(run, "tokens/code/tokens-*.parquet")
    edit_table(path, set_row("tokens", lambda ids: [*ids[:4], ids[4] % 500 + 263, *ids[5:]]))
    assert told(run, "shards/64/", "has other tokens there")


def test_another_token_in_a_record_is_told(run: Path) -> None:
    shard = only(run, "shards/64/train-00002-of-*.tfrecord")
    tokens = read_matrix(shard).copy()
    tokens[3, 10] = tokens[3, 10] % 500 + 263
    write_matrix(shard, tokens)
    assert told(run, shard.name, "record 3 holds tokens", "has other tokens there")
    assert check(run / "shards/64").sound  # nothing in the view alone could tell


def test_swapped_records_are_told(run: Path) -> None:
    shard = only(run, "shards/64/train-00002-of-*.tfrecord")
    tokens = read_matrix(shard)
    write_matrix(shard, tokens[[1, 0, *range(2, len(tokens))]])
    assert told(run, shard.name, "record 0 holds tokens", "has other tokens there")


def swap_provenance(rows: Rows, a: int, b: int) -> Rows:
    place = {a: b, b: a}
    return sorted(({**row, "row": place.get(row["row"], row["row"])} for row in rows), key=lambda row: row["row"])


def test_records_swapped_with_their_provenance_break_the_order(view: Path) -> None:
    shard = only(view, "train-00002-of-*.tfrecord")
    component, _, _ = order_of(view).sequence_of_slot(2, np.arange(len(read_matrix(shard))))
    other = int(np.argmax(component != component[0]))
    tokens = read_matrix(shard)
    at = np.arange(len(tokens))
    at[[0, other]] = other, 0
    write_matrix(shard, tokens[at])
    edit_table(provenance(shard), lambda rows: swap_provenance(rows, 0, other))
    assert told(view, shard.name, "record 0 holds document", "where the order puts a sequence of")


def copy_record(view: Path, source: tuple[int | str, int], target: tuple[int | str, int]) -> None:
    """Give a record the content and the provenance of another one."""

    def shard_of(name: int | str) -> Path:
        return only(view, f"train-{name:05d}-of-*.tfrecord" if isinstance(name, int) else f"{name}-00000-of-*.tfrecord")

    there, here = shard_of(source[0]), shard_of(target[0])
    tokens = read_matrix(here).copy()
    tokens[target[1]] = read_matrix(there)[source[1]]
    write_matrix(here, tokens)
    pieces = [row for row in pq.read_table(provenance(there)).to_pylist() if row["row"] == source[1]]
    moved = [{**piece, "shard": here.name, "row": target[1]} for piece in pieces]

    def change(rows: Rows) -> Rows:
        kept = [row for row in rows if row["row"] != target[1]]
        return sorted(kept + moved, key=lambda row: row["row"])

    edit_table(provenance(here), change)


def unit_of(view: Path, component: int, sequence: np.ndarray) -> np.ndarray:
    names = [part.name for part in load(ShardManifest, view / "manifest.json").order.components]
    rows = [row for row in pq.read_table(view / "units.parquet").to_pylist() if row["component"] == names[component]]
    return np.searchsorted(np.cumsum([row["train_sequences"] for row in rows]), sequence, side="right")


def test_a_repeat_with_other_content_is_told(run: Path) -> None:
    view = run / "shards/64"
    order = order_of(view)
    n = np.arange(order.records)
    component, sequence, repeat = order.sequence_at(n)
    again = n[(component == 1) & (repeat == 1)]
    target = again[0]
    unit = unit_of(view, 1, sequence)
    source = next(
        m for m in n[(component == 1) & (repeat == 0)] if unit[m] == unit[target] and sequence[m] != sequence[target]
    )
    copy_record(view, slot(order, source), slot(order, target))
    assert told(run, "which the first use of the same sequence does not")


def test_tokens_in_two_sequences_are_told(run: Path) -> None:
    view = run / "shards/64"
    order = order_of(view)
    n = np.arange(order.records)
    component, sequence, _ = order.sequence_at(n)
    mine = n[(component == 0) & (unit_of(view, 0, sequence) == 0)]
    copy_record(view, slot(order, mine[0]), slot(order, mine[1]))
    assert told(run, "some of which are in another sequence too")


def test_a_document_in_both_splits_is_told(view: Path) -> None:
    order = order_of(view)
    n = np.arange(order.records)
    component, sequence, _ = order.sequence_at(n)
    units = pq.read_table(view / "units.parquet").to_pylist()
    held_out = next(row["unit"] for row in units if row["component"] == "code" and row["validation_sequences"])
    mine = n[(component == 0) & (unit_of(view, 0, sequence) == held_out)]
    copy_record(view, slot(order, mine[0]), ("validation-code", 0))
    assert told(view, "which is in train and in validation")


def test_tokens_after_the_last_document_are_told(view: Path) -> None:
    for shard in sorted(view.glob("train-*.tfrecord")):
        tokens = read_matrix(shard).copy()
        padded = np.flatnonzero(tokens[:, -1] == PAD)
        if len(padded):
            tokens[padded[0], -1] = 300
            write_matrix(shard, tokens)
            assert told(view, shard.name, f"record {padded[0]} holds tokens beyond those its provenance names")
            return
    raise AssertionError("no record of the view has padding")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_row("start", lambda start: start + 1), "tokens"),
        (set_row("length", lambda length: length - 1), "record 0 holds tokens beyond"),
        (set_row("length", lambda length: length + 60), "has room for 1 to 65"),
        (set_row("length", 0), "spans without tokens"),
        (set_row("document", "code/0/99999"), "has no tokens"),
        (set_row("document", "code/999/0"), "no document of this view"),
        (set_row("document", "code/0/-1"), "no document of this view"),
        (set_row("shard", "train-00001-of-00002.tfrecord"), "name another shard"),
        (lambda rows: rows[::-1], "not in the order of the shard's records"),
        (lambda rows: [row for row in rows if row["row"] != 4], "gives record 4 0 tokens"),
    ],
)
def test_altered_provenance_is_told(run: Path, change: Callable[[Rows], Rows], sentence: str) -> None:
    shard = only(run, "shards/64/train-00001-of-*.tfrecord")
    edit_table(provenance(shard), change)
    assert told(run, sentence)


# Numbers


@pytest.mark.parametrize(
    "keys",
    [
        ("conservation", "documents", "in"),
        ("conservation", "documents", "kept"),
        ("conservation", "documents", "dropped", "near_duplicate"),
        ("conservation", "documents", "rejected", "not_utf8"),
        ("conservation", "tokens", "encoded"),
        ("conservation", "tokens", "in_records"),
        ("conservation", "tokens", "repeated"),
        ("conservation", "tokens", "padding"),
        ("conservation", "tokens", "unused"),
        ("components", "code", "documents"),
        ("components", "code", "tokens"),
        ("components", "code", "used"),
        ("components", "code", "unused"),
        ("components", "natural_language", "repeats"),
        ("components", "natural_language", "available"),
        ("components", "natural_language", "token_share"),
        ("splits", "train", "records"),
        ("splits", "train", "lanes"),
        ("splits", "train", "groups"),
        ("splits", "train", "files", 0, "records"),
        ("splits", "validation", "code", "records"),
        ("provenance", 0, "records"),
        ("order", "period"),
        ("order", "seed"),
        ("order", "components", 0, "weight"),
        ("order", "components", 0, "realised"),
        ("sequence_length",),
    ],
)
def test_any_number_of_a_view_that_is_off_by_one_is_told(view: Path, keys: tuple[str | int, ...]) -> None:
    edit_json(view / "manifest.json", shift_count(*keys))
    assert not check(view).sound


COUNTS = [
    ("documents/code", "documents_in"),
    ("documents/code", "kept"),
    ("documents/code", "characters"),
    ("documents/code", "rejected.not_utf8"),
    ("dedup/code", "dropped.exact_duplicate"),
    ("tokens/code", "kept"),
    ("tokens/code", "tokens"),
    ("tokens/code", "rejected.max_tokens"),
]


def test_counts_of_a_stage_that_are_off_by_one_are_told(stages: Path) -> None:
    for folder, key in COUNTS:
        edit_json(stages / folder / "manifest.json", shift_count("counts", key))
    problems = "\n".join(check(stages).problems)
    for folder, key in COUNTS:
        assert f"{folder}/manifest.json: {key} of all units: " in problems
        manifest = json.loads((stages / folder / "manifest.json").read_text())
        unit = next(at for at, unit in enumerate(manifest["units"]) if unit["counts"].get(key))
        edit_json(stages / folder / "manifest.json", shift_count("units", unit, "counts", key))
    problems = "\n".join(check(stages).problems)
    for folder, key in COUNTS:
        assert f"{folder}/manifest.json: {key} of all units: " not in problems
        assert f"{folder}/manifest.json: {key} of unit " in problems


def test_numbers_that_add_up_and_are_not_those_of_the_files_are_told(run: Path) -> None:
    path = run / "shards/64/manifest.json"
    for keys in (("documents", "in"), ("documents", "rejected", "empty"), ("tokens", "encoded"), ("tokens", "unused")):
        edit_json(path, shift_count("conservation", *keys))
    problems = "\n".join(check(run).problems)
    for what in ("documents in", "documents rejected as empty", "tokens encoded", "tokens unused"):
        assert f"shards/64/manifest.json: {what}: stated " in problems


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (("tokenizer", "vocab_size"), "its tokenizer is not the one in tokenizer/"),
        (("order", "components", 0, "requested"), "requested share of code"),
        (("order", "seed"), "seed: stated"),
    ],
)
def test_a_view_of_another_config_or_tokenizer_is_told(run: Path, keys: tuple[str | int, ...], sentence: str) -> None:
    edit_json(run / "shards/64/manifest.json", shift_count(*keys))
    assert told(run, "shards/64/manifest.json", sentence)


def test_inputs_of_another_run_are_told(stages: Path) -> None:
    edit_json(stages / "documents/code/manifest.json", lambda manifest: manifest.update(fingerprint="0" * 64))
    assert told(stages, "dedup/code/manifest.json", "fingerprints of its inputs")


def test_the_recount_is_the_manifests(small_run: Path) -> None:
    """The report's numbers are those of the manifests, which the stages counted on their way."""
    law = json.loads((small_run / "shards/64/manifest.json").read_text())["conservation"]
    found = check(small_run).checked
    assert found["documents"] + found["rejects"] == law["documents"]["in"] + sum(
        count for reason, count in law["documents"]["rejected"].items() if reason == "max_tokens"
    )
    assert found["drops"] == sum(law["documents"]["dropped"].values())
    assert found["tokens"] == law["tokens"]["encoded"]

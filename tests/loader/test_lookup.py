"""The commands that look things up: base install, JSON, refusals with a way out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from loader.cli import main
from loader.find import find_documents
from loader.locate import locate
from loader.slots import in_shard, in_validation
from loader.stats import statistics
from loader.view import open_view
from schemas.errors import Refused
from tests.loader.forge import edit_json, provenance
from tests.loader.test_inspect import base_install

COMMANDS = [
    ["show", "--position", "3"],
    ["show", "--validation", "code", "--row", "0", "--tokens"],
    ["trace", "--step", "2", "--global-batch", "8", "--row", "5", "--token", "7"],
    ["find", "--document", "code/1/0"],
    ["find", "--path", "latin1.py"],
    ["stats", "--samples", "20", "--seed", "9"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_base_install_runs_every_command(small_run: Path, command: list[str]) -> None:
    """No TensorFlow, Beam or SentencePiece; text is shown all the same."""
    shown = base_install(command[0], str(small_run), "--view", "256", *command[1:])
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout
    assert "no tokenizer" not in shown.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_json_is_one_object_and_names_the_view(
    small_run: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], str(small_run / "shards/256"), "--json", *command[1:]]) == 0
    assert json.loads(capsys.readouterr().out)["view"] == str(small_run / "shards/256")


def test_what_the_locale_cannot_print_is_escaped(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    shown = base_install("show", str(small_run), "--view", "256", "--validation", "code", "--row", "0")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.isascii()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["show"], "has the views 64, 256; choose one with --view"),
        (["show", "--view", "128"], "has no view 128; there is: 64, 256"),
        (["show", "--view", "64", "--row", "3"], "--row names no record; give --position N, or"),
        (["trace", "--view", "64", "--position", "1", "--shard", "x"], "--position --shard names no record"),
        (["trace", "--view", "64", "--step", "1", "--row", "1"], "--step --row names no record"),
        (["stats", "--view", "64", "--samples", "0"], "at least 1 record"),
    ],
)
def test_refusals(small_run: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([options[0], str(small_run), *options[1:]]) == 2
    assert says in capsys.readouterr().err


def split_validation(view: Path, component: str, rows: int) -> None:
    """Write a component's one validation shard as two, the first of `rows` records."""
    stem = f"validation-{component}-0000{{}}-of-0000{{}}"
    old = view / (stem.format(0, 1) + ".tfrecord")
    data, table = old.read_bytes(), pq.read_table(provenance(old))

    def change(content: dict[str, Any]) -> None:
        (about,) = content["splits"]["validation"][component]["files"]
        cut = len(data) // about["records"] * rows
        files, found = [], []
        for k, (part, first, end) in enumerate(((data[:cut], 0, rows), (data[cut:], rows, about["records"]))):
            path = view / (stem.format(k, 2) + ".tfrecord")
            path.write_bytes(part)
            held = table.filter((pc.field("row") >= first) & (pc.field("row") < end))
            held = held.set_column(1, "row", pc.subtract(held["row"], first))
            pq.write_table(held, provenance(path))
            size = len(part) // (end - first)
            ends = part[size - 4 : size] + part[-4:]
            files.append(about | {"path": path.name, "records": end - first, "bytes": len(part), "ends": ends.hex()})
            found.append({"path": provenance(path).name, "records": held.num_rows, "bytes": 0, "sha256": ""})
        content["splits"]["validation"][component]["files"] = files
        at = next(i for i, file in enumerate(content["provenance"]) if file["path"] == provenance(old).name)
        content["provenance"][at : at + 1] = found

    edit_json(view / "manifest.json", change)


def test_validation_in_several_shards_is_as_in_one(view: Path) -> None:
    one = open_view(locate(str(view)))
    (number,) = one.held_out(0)
    records = one.shards[number].file.records
    documents = sorted({span.document for row in range(records) for span in one.spans(number, row)})
    sample, found = statistics(one, 10), find_documents(one, documents)
    split_validation(view, "code", 7)
    two = open_view(locate(str(view)))
    assert len(two.held_out(0)) == 2
    for row in range(records):
        before, after = in_validation(one, "code", row), in_validation(two, "code", row)
        assert after == in_shard(two, two.shards[after.shard].file.path, row - 7 * (row >= 7))
        assert (after.sequence, after.split) == (before.sequence, before.split)
        assert np.array_equal(two.tokens(after.shard, [after.row]), one.tokens(before.shard, [before.row]))
    assert statistics(two, 10) == sample
    for before, after in zip(found, find_documents(two, documents), strict=True):
        spans = [
            {(held["start"], held["length"], held["at"]) for held in facts["records"]} for facts in (before, after)
        ]
        assert spans[0] == spans[1] != set()


def test_only_views_hold_records(small_run: Path, stages: Path) -> None:
    with pytest.raises(Refused, match="the folder of a stage holds no records"):
        open_view(locate(str(small_run / "tokens/code")))
    with pytest.raises(Refused, match="no view of this run is finished"):
        open_view(locate(str(stages)))
    with pytest.raises(Refused, match="is a view of length 64, not 256"):
        open_view(locate(str(small_run / "shards/64")), 256)


def test_a_run_of_one_view_needs_no_choice(run: Path) -> None:
    assert open_view(locate(str(run))).manifest.sequence_length == 64


def test_a_view_knows_its_run_only_where_it_lies_in_one(small_run: Path, tmp_path: Path) -> None:
    assert open_view(locate(str(small_run)), 64).run == small_run.resolve()
    copy = shutil.copytree(small_run / "shards/64", tmp_path / "shards/64")
    assert open_view(locate(str(copy))).run is None

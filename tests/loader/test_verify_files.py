"""Damage to files: whatever happens to one, it is named, and nothing ends in a traceback."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.cli import main
from schemas.errors import TokenmillError
from tests.loader.forge import check, edit_json, read_matrix, rehash, shift_count, told, write_matrix

FILES = [
    "documents/code/documents-00001-of-*.parquet",
    "documents/natural_language/rejected-00000-of-*.parquet",
    "dedup/code/drops-00002-of-*.parquet",
    "tokenizer/tokenizer.model",
    "tokens/code/tokens-00001-of-*.parquet",
    "tokens/code/rejected-00000-of-*.parquet",
    "shards/64/train-00003-of-*.tfrecord",
    "shards/64/validation-code-00000-of-*.tfrecord",
    "shards/64/provenance-train-00001-of-*.parquet",
    "shards/64/units.parquet",
]


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def flip(path: Path, at: int = -40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_run_and_its_views_are_sound(small_run: Path) -> None:
    found = check(small_run)
    assert found.problems == []
    assert {"files", "documents", "drops", "tokens", "spans", "records", "tokens compared"} <= found.checked.keys()
    manifest = json.loads((small_run / "shards/64/manifest.json").read_text())
    alone = check(small_run / "shards/64/manifest.json")
    assert alone.problems == []
    records = manifest["splits"]["train"]["records"] + sum(
        split["records"] for split in manifest["splits"]["validation"].values()
    )
    assert alone.checked["records"] == records
    assert check(small_run / "tokens/code").problems == []


def test_views_without_the_rest_of_the_run_are_sound(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run / "shards", tmp_path / "moved/shards")
    found = check(tmp_path / "moved")
    assert found.problems == []
    assert any("alone" in note for note in found.notes)


@pytest.mark.parametrize("pattern", FILES)
def test_a_changed_file_is_named(run: Path, pattern: str) -> None:
    path = only(run, pattern)
    flip(path)
    assert told(run, path.relative_to(run).as_posix(), "sha256")


@pytest.mark.parametrize("pattern", [FILES[0], FILES[4], FILES[6], FILES[8]])
def test_a_cut_file_is_named(run: Path, pattern: str) -> None:
    path = only(run, pattern)
    path.write_bytes(path.read_bytes()[:-17])
    assert told(run, path.relative_to(run).as_posix(), "bytes, the manifest states")


@pytest.mark.parametrize("pattern", FILES)
def test_a_missing_file_is_named(run: Path, pattern: str) -> None:
    path = only(run, pattern)
    path.unlink()
    assert told(run, path.relative_to(run).as_posix(), "is missing")


@pytest.mark.parametrize("part", ["dedup/code", "tokens", "tokenizer", "shards/64"])
def test_a_missing_part_of_a_run_is_named(run: Path, part: str) -> None:
    shutil.rmtree(run / part)
    assert told(run, part, "is missing")


def test_two_shards_that_change_places_are_named(run: Path) -> None:
    first, second = (only(run, f"shards/64/train-0000{k}-of-*.tfrecord") for k in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    found = check(run)
    assert all(any(path.name in problem for problem in found.problems) for path in (first, second))


@pytest.mark.parametrize("folder", ["documents/code", "shards/64", "tokenizer"])
def test_a_file_that_does_not_belong_is_named(run: Path, folder: str) -> None:
    (run / folder / "extra-00000.parquet").write_bytes(b"")
    assert told(run, folder, "extra-00000.parquet", "does not name")


@pytest.mark.parametrize("pattern", [FILES[0], FILES[2], FILES[4], FILES[8], FILES[9]])
def test_a_file_that_is_no_table_is_named(run: Path, pattern: str) -> None:
    path = only(run, pattern)
    path.write_bytes(b"PAR1 not a table PAR1")
    rehash(path.parent)
    assert told(run, path.relative_to(run).as_posix(), "cannot be read as Parquet")


def test_an_altered_record_is_named_by_its_number(view: Path) -> None:
    shard = only(view, "train-00000-of-*.tfrecord")
    size = shard.stat().st_size // len(read_matrix(shard))
    flip(shard, 7 * size + 60)
    rehash(view)
    assert told(view, shard.name, "record 7", "checksum")


def test_an_altered_frame_is_named_by_its_number(view: Path) -> None:
    shard = only(view, "train-00000-of-*.tfrecord")
    size = shard.stat().st_size // len(read_matrix(shard))
    flip(shard, 5 * size)
    rehash(view)
    assert told(view, shard.name, "record 5", "header")


def test_a_shard_that_lost_its_last_record_is_named(view: Path) -> None:
    shard = only(view, "train-00000-of-*.tfrecord")
    tokens = read_matrix(shard)
    write_matrix(shard, tokens[:-1])
    assert told(view, shard.name, f"holds {len(tokens) - 1:,} whole records")


def test_a_record_of_another_length_is_named(view: Path) -> None:
    shard = only(view, "train-00000-of-*.tfrecord")
    write_matrix(shard, read_matrix(shard)[:, :-1])
    assert told(view, shard.name, "record 0 holds 64 tokens, not 65")


def test_ends_that_are_another_shards_are_named(view: Path) -> None:
    """What a reader tells shards apart by is computed again; here the file is right and the manifest is not."""
    shard = only(view, "train-00002-of-*.tfrecord")

    def swap(manifest: dict[str, Any]) -> None:
        files = manifest["splits"]["train"]["files"]
        files[2]["ends"], files[3]["ends"] = files[3]["ends"], files[2]["ends"]

    edit_json(view / "manifest.json", swap)
    assert told(view, shard.name, "checksums of its first and last record")


def test_a_path_out_of_the_folder_is_refused_reading(view: Path, tmp_path: Path) -> None:
    def escape(manifest: dict[str, object]) -> None:
        manifest["units"]["path"] = "../elsewhere.parquet"  # type: ignore[index]

    edit_json(view / "manifest.json", escape)
    assert told(view, "../elsewhere.parquet", "not in its own folder")


def test_many_problems_are_counted_and_few_listed(run: Path) -> None:
    for path in (run / "shards/64").glob("*.tfrecord"):
        path.unlink()
    for path in (run / "shards/64").glob("*.parquet"):
        flip(path)
    for path in (run / "documents").rglob("*.parquet"):
        flip(path)
    found = check(run)
    assert found.total > len(found.problems) == 100
    assert any(line.startswith("and ") for line in found.lines())


def test_exit_codes_and_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run / "shards/64"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sound"] is True
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert main(["inspect", str(tmp_path)]) == 2
    assert main(["verify", "gs://bucket/run"]) == 2
    assert main(["verify", str(run / "config.yaml")]) == 2
    refused = capsys.readouterr()
    assert refused.out == ""
    assert refused.err.count("error: ") == len(refused.err.splitlines()) == 4
    edit_json(run / "shards/64/manifest.json", shift_count("splits", "train", "rows"))
    assert main(["verify", str(run), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["sound"] is False
    assert report["problems"]
    (run / "tokens/code/manifest.json").write_text('{"stage": "tokenize"}')
    for command in ("verify", "inspect"):
        assert main([command, str(run)]) == 1
        broken = capsys.readouterr()
        assert "tokens/code/manifest.json" in broken.err
        assert len([line for line in broken.err.splitlines() if line.startswith("error: ")]) == 1


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_no_manifest_however_broken_ends_in_a_traceback(small_run: Path, data: st.DataObject) -> None:
    """Values of a view's manifest are replaced; the outcome is a report or one sentence."""
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder) / "view"
        shutil.copytree(small_run / "shards/256", view, copy_function=lambda a, b: Path(b).symlink_to(a))
        manifest = json.loads((view / "manifest.json").read_text())
        manifest_path = view / "manifest.json"
        part, key = pick(manifest, data)
        numbers = st.sampled_from([0, 1, -1, 7, 1 << 40])
        part[key] = data.draw(numbers | st.sampled_from(["", "x", "1", None, [], {}, 0.5]))
        manifest_path.unlink()
        manifest_path.write_text(json.dumps(manifest))
        try:
            check(view)
        except TokenmillError as error:
            assert "manifest.json" in str(error)


def pick(content: Any, data: st.DataObject) -> tuple[Any, str | int]:
    """A place in nested JSON: what holds it, and its key."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(min(len(content), 2)))
        key = data.draw(st.sampled_from(keys))
        inner = content[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 9)) == 0:
            return content, key
        content = inner

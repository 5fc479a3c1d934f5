"""`inspect` says what the manifests say, at once, in 80 columns, without Beam and TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.cli import main
from loader.inspect import inspect, largest_prefix_error
from loader.locate import locate
from schemas.errors import Refused
from schemas.manifest import ShardManifest, load
from schemas.mixture import pattern
from tests.conftest import ROOT

# What a base install does not have.
ABSENT = ["tensorflow", "apache_beam", "sentencepiece", "datasketch", "scipy", "pygments", "zstandard", "psutil"]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any))
@settings(max_examples=100, deadline=None)
def test_the_largest_prefix_error_is_that_of_three_periods(weights: list[int]) -> None:
    order = np.tile(pattern(tuple(weights)), 3)
    prefixes = np.arange(1, len(order) + 1)
    errors = [np.abs(np.cumsum(order == c) - prefixes * weight / sum(weights)) for c, weight in enumerate(weights)]
    largest = max(error.max() for error in errors)
    assert largest_prefix_error(tuple(weights)) == pytest.approx(largest)
    assert largest < 1


def test_a_view_is_what_its_manifest_says(small_run: Path) -> None:
    manifest = load(ShardManifest, small_run / "shards/64/manifest.json")
    facts = inspect(locate(str(small_run / "shards/64")))
    assert facts["sequence_length"] == 64
    assert facts["order"] == {
        "seed": 5,
        "lanes": manifest.splits.train.lanes,
        "groups": manifest.splits.train.groups,
        "rows": manifest.splits.train.rows,
    }
    assert sum(part["records"] for part in facts["components"].values()) == manifest.splits.train.records
    sizes = [path.stat().st_size for path in (small_run / "shards/64").glob("*.tfrecord")]
    assert facts["bytes"]["shards"] == sum(sizes)
    assert facts["conservation"]["documents"]["in"] == manifest.conservation.documents.into
    assert 0 < facts["mixture_error"] < 1


def test_every_document_of_a_run_is_accounted_for(small_run: Path) -> None:
    facts = inspect(locate(str(small_run)))
    for part in facts["documents"].values():
        assert part["in"] == part["kept"] + sum(part["rejected"].values()) + sum(part["dropped"].values())
    assert set(facts["views"]) == {"64", "256"}
    assert facts["unfinished"] == []
    assert facts["alarms"] == sorted(facts["alarms"])


def test_what_is_not_finished_is_listed(run: Path) -> None:
    (run / "tokens/code/manifest.json").unlink()
    (run / "shards/64/manifest.json").unlink()
    facts = inspect(locate(str(run)))
    assert facts["unfinished"] == ["tokens/code", "shards/64"]


@pytest.mark.parametrize("place", ["", "shards/64", "shards/256/manifest.json", "documents/code", "tokenizer"])
def test_text_fits_80_columns_and_is_plain_in_a_pipe(
    small_run: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(small_run / place)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(str(small_run / place).removesuffix("/manifest.json"))
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() and "\x1b" not in line for line in lines)


@pytest.mark.parametrize("place", ["", "shards/64", "tokens/code"])
def test_json_is_one_object(small_run: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(small_run / place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == inspect(locate(str(small_run / place)))


def base_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); "
        f"from loader.cli import main; sys.exit(main({list(arguments)!r}))"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


def test_a_base_install_inspects_and_verifies(small_run: Path) -> None:
    shown = base_install("inspect", str(small_run))
    assert shown.returncode == 0, shown.stderr
    verified = base_install("verify", str(small_run / "shards/256"))
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("path", ["s3://bucket/run", "/no/such/place", __file__, str(ROOT / "schemas")])
def test_other_paths_are_refused_in_one_line(path: str) -> None:
    with pytest.raises(Refused) as refused:
        locate(path)
    assert path in str(refused.value)
    assert "\n" not in str(refused.value)

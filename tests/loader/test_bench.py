"""`bench` and `Shards.statistics`: what they report of a real run; speeds are no law."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loader import Shards
from loader.cli import main
from loader.stats import statistics
from loader.view import view_of
from schemas.errors import Refused


def test_bench_reads_the_view(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow")
    assert main(["bench", str(small_run / "shards/64"), "--global-batch", "16", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    middle = Shards(small_run / "shards/64").records // 2
    assert list(facts["first_batch_seconds"]) == ["0", str(middle)]
    for name in ("tokens", "full"):
        ratio = facts[name]["megabytes_per_second"] * 1e6 / facts[name]["tokens_per_second"]
        assert 2 < ratio < 3.5  # two bytes a token, and the frame of a record of 65 tokens


def test_bench_refuses_what_is_no_view(tmp_path: Path) -> None:
    assert main(["bench", str(tmp_path)]) == 2


def test_statistics_of_shards_are_those_of_the_view(small_run: Path) -> None:
    shards = Shards(small_run / "shards/256")
    found = shards.statistics(samples=20, seed=3)
    assert found == statistics(view_of(Path(shards.folder), shards.manifest), 20, 3)
    assert {part.component for part in found} == set(shards.components)
    with pytest.raises(Refused):
        shards.statistics(samples=0)

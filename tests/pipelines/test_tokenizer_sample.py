"""The units that a tokenizer's sample is taken from: all of a small corpus, some of a large one, never too few."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import stages
from pipelines.tokenizer import job
from pipelines.tokenizer.job import SAMPLED_UNITS, sampled
from schemas.config import load_config
from tests.pipelines.tiny import context_of


@given(st.lists(st.integers(0, 100), max_size=3000), st.floats(0, 200_000), st.integers(0, 3), st.integers(0, 9000))
def test_units_are_enough_and_no_more(sizes: list[int], wanted: float, seed: int, first: int) -> None:
    characters = dict(enumerate(sizes, first))
    chosen = sampled(characters, wanted, seed)
    assert chosen == sampled(characters, wanted, seed)
    assert chosen.items() <= characters.items() and list(chosen) == sorted(chosen)
    assert len(chosen) >= min(SAMPLED_UNITS, len(characters))
    assert sum(chosen.values()) >= wanted or len(chosen) == len(characters)
    if len(chosen) > SAMPLED_UNITS:  # for want of characters alone
        assert sum(chosen.values()) - 100 <= wanted + 1


def test_units_are_from_everywhere_and_another_seed_has_others() -> None:
    characters = dict.fromkeys(range(100_000), 50_000)
    chosen = sampled(characters, 1e6, 1)
    assert len(chosen) == SAMPLED_UNITS
    tenths = [sum(number * 10_000 <= unit < (number + 1) * 10_000 for unit in chosen) for number in range(10)]
    assert min(tenths) > 60
    assert len(chosen.keys() & sampled(characters, 1e6, 2).keys()) < 50


def test_a_sample_of_some_units_has_the_same_size(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for most in (SAMPLED_UNITS, 1):  # code has two units, each of which has enough
        copy = tmp_path / str(most)
        shutil.copytree(tiny_run / "run", copy)
        for later in ("tokenizer", "tokens", "shards"):
            shutil.rmtree(copy / later)
        monkeypatch.setattr(job, "SAMPLED_UNITS", most)
        with context_of(load_config(tiny_run / "tiny/config.yaml"), copy) as context:
            job.run(context)
            found[most] = stages.need_manifest(context.run, "tokenizer").counts
    assert 19_900 < found[1]["characters"] <= 20_000 and 19_900 < found[SAMPLED_UNITS]["characters"] <= 20_000
    assert found[1]["documents"] < found[SAMPLED_UNITS]["documents"]

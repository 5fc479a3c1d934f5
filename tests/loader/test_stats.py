"""`stats` counts what is in the sampled records, and draws the same ones anywhere."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.locate import locate
from loader.stats import ComponentStatistics, count_tokens, statistics
from loader.view import View, open_view
from schemas.errors import Refused, TokenmillError
from schemas.manifest import TokenizerInfo
from tests.loader.truth import read_truth

INFO = TokenizerInfo(fingerprint="", vocab_size=20, begin=1, end=2, pad=3, fim_begin=4, fim_hole=5, fim_end=6)


@pytest.fixture(scope="module")
def opened(small_run: Path) -> View:
    return open_view(locate(str(small_run / "shards/256")))


def by_part(found: tuple[ComponentStatistics, ...]) -> dict[tuple[str, str], ComponentStatistics]:
    return {(part.split, part.component): part for part in found}


def test_a_sample_of_all_is_the_truth(small_run: Path, opened: View) -> None:
    """Documents by provenance, components by the documents' ids: nothing of the order is used."""
    truth = read_truth(small_run, 256)
    pad = opened.manifest.tokenizer.pad

    def where(slot: tuple[str, int]) -> tuple[str, str]:
        return slot[0].split("-")[0], truth.pieces[slot][0][0].split("/")[0]

    counts: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for slot, held in truth.records.items():
        tokens = [id_ for id_ in held.tolist() if id_ != pad]
        counts.setdefault(where(slot), []).append((len(tokens), len(set(tokens)), len(truth.pieces[slot])))
    found = by_part(statistics(opened, samples=10**6))
    assert set(found) == set(counts)
    for part, expected in counts.items():
        stated = found[part]
        assert stated.records == stated.sampled == len(expected)
        for spread, values in zip(
            (stated.tokens, stated.unique, stated.documents), zip(*expected, strict=True), strict=True
        ):
            assert (spread.min, spread.max) == (min(values), max(values))
            assert spread.mean == pytest.approx(sum(values) / len(values))
        ids = np.concatenate([held for slot, held in truth.records.items() if where(slot) == part])
        shares = np.unique(ids[ids != pad], return_counts=True)[1] / (ids != pad).sum()
        assert stated.entropy == pytest.approx(-float(shares @ np.log(shares)))
        assert stated.padding == pytest.approx(1 - sum(c[0] for c in expected) / (257 * len(expected)))


def test_a_sample_is_near_the_whole_and_keyed_by_its_seed(opened: View) -> None:
    whole, some = by_part(statistics(opened, 10**6)), by_part(statistics(opened, 200, seed=3))
    assert statistics(opened, 200, seed=3) == statistics(opened, 200, seed=3)
    assert statistics(opened, 200, seed=3) != statistics(opened, 200, seed=4)
    for part, stated in some.items():
        assert stated.sampled == min(200, stated.records) == min(200, whole[part].records)
        assert stated.tokens.min >= whole[part].tokens.min
        assert stated.tokens.max <= whole[part].tokens.max
        assert stated.unique.mean == pytest.approx(whole[part].unique.mean, rel=0.1)


def test_only_sampled_records_are_read(view: Path) -> None:
    """Every shard is damaged in its second record; small samples that miss them all are as before, all are not."""
    opened = open_view(locate(str(view)))
    before = [statistics(opened, 2, seed) for seed in range(12)]
    for shard in opened.shards:
        path = view / shard.file.path
        data = bytearray(path.read_bytes())
        data[int(1.5 * len(data) / shard.file.records)] ^= 1
        path.write_bytes(data)
    same = 0
    for seed, expected in enumerate(before):
        try:
            assert statistics(opened, 2, seed) == expected
            same += 1
        except TokenmillError as error:
            assert "record 1 is damaged" in str(error)
    assert same > 6
    with pytest.raises(TokenmillError, match="record 1 is damaged"):
        statistics(opened, 10**6)


@given(st.lists(st.lists(st.sampled_from([1, 2, 4, 7, 8, 9]), min_size=1, max_size=9), min_size=1, max_size=6))
def test_counts_are_those_of_a_loop(records: list[list[int]]) -> None:
    matrix = np.full((len(records), 9), INFO.pad, np.uint16)
    expected = []
    for row, tokens in enumerate(records):
        matrix[row, : len(tokens)] = tokens
        pieces = sum(i == 0 or id_ == INFO.begin or tokens[i - 1] == INFO.end for i, id_ in enumerate(tokens))
        expected.append((len(tokens), len(set(tokens)), pieces))
    assert list(zip(*(part.tolist() for part in count_tokens(matrix, INFO)), strict=True)) == expected


def test_a_sample_of_none_is_refused(opened: View) -> None:
    with pytest.raises(Refused, match="at least 1 record, not 0"):
        statistics(opened, 0)


def test_statistics_are_plain_numbers(opened: View) -> None:
    for part in statistics(opened, 5):
        assert {type(value) for value in astuple(part)} <= {str, int, float, tuple}

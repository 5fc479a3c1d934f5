import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.minhash import (
    EMPTY,
    band_keys,
    estimated_jaccard,
    exact_jaccard,
    shingle_hashes,
    signatures,
)
from pipelines.text_table import TextTable

WORDS = st.lists(st.sampled_from(["the", "quick", "brown", "fox", "jumps", "中", "over"]), max_size=12)


def offsets_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def reference(values, permutations):
    sketch = datasketch.MinHash(num_perm=permutations, hashfunc=lambda value: value)
    if len(values):
        sketch.update_batch(values)
    return sketch.hashvalues


@settings(max_examples=30)
@given(
    documents=st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=30), max_size=6),
    permutations=st.sampled_from([16, 250, 256]),
)
def test_signatures_are_datasketchs(documents, permutations):
    values = np.array([value for document in documents for value in document], dtype=np.uint32)
    found = signatures(values, offsets_of([len(d) for d in documents]), permutations)
    assert found.shape == (len(documents), permutations) and found.dtype == np.uint32
    for row, document in zip(found, documents, strict=True):
        assert np.array_equal(row, reference(np.array(document, dtype=np.uint32), permutations))


def test_signatures_of_documents_across_blocks():
    lengths = [40_000, 0, 3, 16_384, 1, 0, 50_000, 7]
    values = np.random.default_rng(5).integers(0, 2**32, sum(lengths), dtype=np.uint32)
    offsets = offsets_of(lengths)
    found = signatures(values, offsets)
    for i, length in enumerate(lengths):
        assert np.array_equal(found[i], reference(values[offsets[i] : offsets[i] + length], 256))
    assert np.all(found[1] == EMPTY)


@given(documents=st.lists(WORDS, max_size=6), k=st.integers(1, 6))
def test_shingles_are_the_runs_of_k_tokens(documents, k):
    values, offsets = shingle_hashes(TextTable.from_texts([" ".join(words) for words in documents]), k)
    assert values.dtype == np.uint32
    hash_of = {}
    for i, words in enumerate(documents):
        runs = [tuple(words[j : j + k]) for j in range(len(words) - k + 1)] or [tuple(words)] * bool(words)
        found = values[offsets[i] : offsets[i + 1]].tolist()
        assert len(found) == len(runs)
        for run, value in zip(runs, found, strict=True):
            assert hash_of.setdefault(run, value) == value
    assert len(set(hash_of.values())) == len(hash_of)


def test_order_matters_and_case_matters():
    table = TextTable.from_texts(["a b c d e", "e d c b a", "A b c d e", "a, b: c\n\nd - e"])
    values, offsets = shingle_hashes(table, 5)
    assert offsets.tolist() == [0, 1, 2, 3, 4]
    assert len(set(values.tolist())) == 3 and values[0] == values[3]


@pytest.mark.parametrize("common", [50, 80, 90, 95])
def test_the_estimate_is_near_the_exact_value(common):
    rng = np.random.default_rng(common)
    shared, a, b = (rng.integers(0, 2**32, n * 50, dtype=np.uint32) for n in (common, 100 - common, 100 - common))
    first, second = np.concatenate([shared, a]), np.concatenate([b, shared])
    exact = exact_jaccard(first, second)
    assert exact == pytest.approx(common / (200 - common), abs=0.01)
    signature = signatures(np.concatenate([first, second]), offsets_of([len(first), len(second)]))
    error = (exact * (1 - exact) / 256) ** 0.5
    assert abs(estimated_jaccard(signature[:1], signature[1:])[0] - exact) < 4 * error


def test_exact_jaccard_by_example():
    assert exact_jaccard(np.array([1, 2, 2, 3], np.uint32), np.array([3, 2, 4], np.uint32)) == 0.5
    assert exact_jaccard(np.array([], np.uint32), np.array([], np.uint32)) == 0


def test_band_keys_are_equal_exactly_where_bands_are():
    rng = np.random.default_rng(3)
    signature = rng.integers(0, 2**32, (500, 32), dtype=np.uint32)
    signature[1] = signature[0]
    signature[1, 5] += 1
    keys = band_keys(signature, 8)
    assert keys.shape == (500, 8) and keys.dtype == np.uint64
    assert (keys[0] == keys[1]).tolist() == [True, False, *[True] * 6]
    assert len(np.unique(keys)) == 500 * 8 - 7
    same = band_keys(np.full((1, 32), 7, np.uint32), 8)
    assert len(np.unique(same)) == 8  # the band's number is part of the key
    with pytest.raises(ValueError, match="7 bands do not divide 32"):
        band_keys(signature, 7)

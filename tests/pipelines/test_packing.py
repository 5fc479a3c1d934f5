"""Packing: every token once, no sequence too full, no document cut that need not be."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.packing import Layout, pack

METHODS = ["best_fit", "concat"]


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.one_of(st.integers(1, 40), st.sampled_from([257, 511, 512, 513, 1024, 4097])))
    longest = draw(st.sampled_from([max(1, capacity // 3), capacity, 3 * capacity + 1]))
    return draw(st.lists(st.integers(1, longest), max_size=60)), capacity


def check(layout: Layout, lengths: np.ndarray, capacity: int) -> None:
    """The laws of every layout."""
    columns = (layout.sequence, layout.document, layout.start, layout.length)
    assert all(column.dtype == np.int64 and column.shape == layout.sequence.shape for column in columns)
    assert (layout.length > 0).all()
    assert (np.diff(layout.sequence) >= 0).all()
    assert np.array_equal(np.unique(layout.sequence), np.arange(layout.sequences))
    filled = np.bincount(layout.sequence, weights=layout.length, minlength=layout.sequences)
    assert (filled <= capacity).all()
    assert layout.length.sum() == lengths.sum()
    assert layout.padding == layout.sequences * capacity - lengths.sum()
    # Sorted by (document, start), pieces follow each other without a gap from 0 to the document's end.
    order = np.lexsort((layout.start, layout.document))
    document, start, end = layout.document[order], layout.start[order], (layout.start + layout.length)[order]
    last = np.append(document[1:] != document[:-1], True)[: document.size]
    assert np.array_equal(document[last], np.arange(lengths.size))
    assert np.array_equal(end[last], lengths)
    first = np.append(True, last[:-1])[: document.size]
    assert (start[first] == 0).all()
    assert np.array_equal(start[~first], end[:-1][~last[:-1]] if document.size else start)


@pytest.mark.parametrize("method", METHODS)
@given(problem=problems())
@settings(max_examples=150, deadline=None)
def test_every_token_is_placed_once(method: str, problem: tuple[list[int], int]) -> None:
    lengths, capacity = problem
    check(pack(lengths, capacity, method), np.array(lengths, dtype=np.int64), capacity)


@given(problems())
@settings(max_examples=150, deadline=None)
def test_best_fit_keeps_documents_whole(problem: tuple[list[int], int]) -> None:
    lengths, capacity = problem
    layout = pack(lengths, capacity, "best_fit")
    pieces = np.bincount(layout.document, minlength=len(lengths))
    assert pieces.tolist() == [-(-length // capacity) for length in lengths]


def slow_best_fit(lengths: list[int], capacity: int) -> tuple[list[list[int]], int]:
    """The lengths in each sequence by the definition: of the bins that fit the fullest, then the latest."""
    rest = sorted((length % capacity for length in lengths if length % capacity), reverse=True)
    bins: list[list[int]] = []
    touched: list[int] = []
    for clock, length in enumerate(rest):
        rooms = [capacity - sum(content) for content in bins]
        fitting = [b for b, room in enumerate(rooms) if room >= length]
        if fitting:
            best = min(fitting, key=lambda b: (rooms[b], -touched[b]))
        else:
            best = len(bins)
            bins.append([])
            touched.append(clock)
        bins[best].append(length)
        touched[best] = clock
    return bins, sum(length // capacity for length in lengths)


@given(problems())
@settings(max_examples=200, deadline=None)
def test_best_fit_is_best_fit_decreasing(problem: tuple[list[int], int]) -> None:
    lengths, capacity = problem
    layout = pack(lengths, capacity, "best_fit")
    contents = defaultdict(list)
    for sequence, length in zip(layout.sequence.tolist(), layout.length.tolist(), strict=True):
        contents[sequence].append(length)
    bins, full = slow_best_fit(lengths, capacity)
    assert [contents[s] for s in range(layout.sequences)] == [[capacity]] * full + bins


def test_equal_lengths_keep_the_order_of_the_input() -> None:
    layout = pack([3, 5, 3, 5, 3], 10, "best_fit")
    assert layout.document.tolist() == [1, 3, 0, 2, 4]
    assert layout.sequence.tolist() == [0, 0, 1, 1, 1]


def test_a_long_document_fills_sequences_and_leaves_a_remainder() -> None:
    layout = pack([4, 25], 10, "best_fit")
    pieces = [c.tolist() for c in (layout.sequence, layout.document, layout.start, layout.length)]
    assert pieces == [[0, 1, 2, 2], [1, 1, 1, 0], [0, 10, 20, 0], [10, 10, 5, 4]]


@given(problems())
@settings(max_examples=100, deadline=None)
def test_concat_lays_documents_end_to_end(problem: tuple[list[int], int]) -> None:
    lengths, capacity = problem
    layout = pack(lengths, capacity, "concat")
    spans = zip(layout.document.tolist(), layout.start.tolist(), layout.length.tolist(), strict=True)
    tokens = [(d, s + k) for d, s, n in spans for k in range(n)]
    assert tokens == [(d, k) for d, length in enumerate(lengths) for k in range(length)]
    assert layout.padding < capacity
    assert layout.sequences == -(-sum(lengths) // capacity)


@pytest.mark.parametrize("capacity", [257, 4097, 131073])
def test_realistic_documents_are_packed_almost_without_padding(capacity: int) -> None:
    lengths = np.random.default_rng(3).lognormal(np.log(900), 1.3, 20_000).astype(np.int64) + 1
    layout = pack(lengths, capacity, "best_fit")
    check(layout, lengths, capacity)
    assert layout.sequences <= 1.001 * lengths.sum() / capacity + 1


@pytest.mark.parametrize("method", METHODS)
def test_no_documents_make_no_sequences(method: str) -> None:
    layout = pack([], 10, method)
    assert (layout.sequences, layout.sequence.size, layout.padding) == (0, 0, 0)


@pytest.mark.parametrize(
    ("lengths", "capacity", "method", "sentence"),
    [
        ([3, 0], 10, "best_fit", "document 1 has 0 tokens"),
        ([3], 0, "concat", "at least 1 token, not 0"),
        ([3], 10, "first_fit", "best_fit or concat, not 'first_fit'"),
    ],
)
def test_what_cannot_be_packed_is_an_error(lengths: list[int], capacity: int, method: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pack(lengths, capacity, method)

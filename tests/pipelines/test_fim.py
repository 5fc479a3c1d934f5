import functools
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tokenizer import Tokenizer, encode_documents, train, undo_fim
from pipelines.tokenizer.fim import fim_cuts
from schemas.errors import TokenmillError

FRAGMENTS = ["<|fim_hole|>", "<s>", "\u2581", " ", "\r\n", "é", "👍"]

keys = st.integers(0, 2**64 - 1)
texts = st.lists(st.sampled_from(["<|fim_hole|>", "<s>", "\u2581", " ", "\r\n", "é", "👍"]) | st.text()).map("".join)


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(train([Path(os.__file__).read_text(encoding="utf-8")], 500))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(texts, keys)), st.floats(0, 1))
def test_the_document_comes_back(documents: list[tuple[str, int]], rate: float) -> None:
    encoded = encode_documents(tokenizer(), [t for t, _ in documents], [k for _, k in documents], rate)
    assert [undo_fim(tokenizer(), ids) for ids in encoded] == [text for text, _ in documents]
    assert all(ids.dtype == np.int32 for ids in encoded)


@settings(deadline=None)
@given(texts, keys)
def test_the_layout_is_prefix_suffix_middle(text: str, key: int) -> None:
    t = tokenizer()
    cuts = fim_cuts(len(text), key, 1.0)
    assert cuts is not None
    first, second = cuts
    assert 0 <= first <= second <= len(text)
    expected = [t.begin, t.fim_begin, *t.encode(text[:first]), t.fim_hole, *t.encode(text[second:])]
    expected += [t.fim_end, *t.encode(text[first:second]), t.end]
    assert encode_documents(t, [text], [key], 1.0)[0].tolist() == expected
    assert encode_documents(t, [text], [key], 0.0)[0].tolist() == [t.begin, *t.encode(text), t.end]


@given(keys, st.integers(0, 10**9), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_rate_adds_documents_and_moves_no_cut(key: int, characters: int, a: float, b: float) -> None:
    low, high = (fim_cuts(characters, key, rate) for rate in sorted((a, b)))
    assert low in (None, high)


def test_the_rate_and_the_cuts_are_spread_evenly() -> None:
    cuts = [fim_cuts(9, key, 0.3) for key in range(30_000)]
    found = [cut for cut in cuts if cut is not None]
    # five standard errors of 30,000 draws
    assert abs(len(found) / len(cuts) - 0.3) < 5 * (0.3 * 0.7 / len(cuts)) ** 0.5
    # of the 100 ordered pairs of ten places, {a, b} has two and {a, a} one
    counts = dict.fromkeys(itertools.combinations_with_replacement(range(10), 2), 0)
    for cut in found:
        counts[cut] += 1
    for (a, b), count in counts.items():
        share = (1 + (a != b)) / 100
        assert abs(count / len(found) - share) < 5 * (share / len(found)) ** 0.5


def test_decisions_are_the_same_on_every_machine() -> None:
    assert [fim_cuts(1000, key, 0.5) for key in (0, 1, 2, 2**64 - 1)] == [
        (140, 654),
        (146, 712),
        (492, 897),
        (690, 968),
    ]


def test_a_broken_fim_document_is_an_error() -> None:
    t = tokenizer()
    ids = encode_documents(t, ["some text"], [1], 1.0)[0]
    for broken in (ids[ids != t.fim_hole], ids[::-1], np.concatenate([ids, ids])):
        with pytest.raises(TokenmillError, match="no whole FIM document"):
            undo_fim(t, broken)


def test_numpy_keys_are_accepted() -> None:
    t = tokenizer()
    keys = np.array([0, 2**64 - 1], np.uint64)
    pairs = zip(
        encode_documents(t, ["abc", "def"], keys, 0.5),
        encode_documents(t, ["abc", "def"], [0, 2**64 - 1], 0.5),
        strict=True,
    )
    assert all(np.array_equal(a, b) for a, b in pairs)

import sysconfig
import unicodedata
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text_table import (
    UNICODE_VERSION,
    TextTable,
    character_classes,
    span_hashes,
    token_hash,
)

ANY = st.text(alphabet=st.characters(exclude_categories=[]), max_size=40)
TRICKY = st.text(alphabet="aZ_09 .-\n\0éß\u0301中文か\u0e01\u0e31\U00020000😀\ud800", max_size=40)
BATCHES = st.lists(st.one_of(ANY, TRICKY), max_size=8)


def reference_tokens(text):
    """Tokens by a loop over characters."""
    tokens, current = [], ""
    for c in text:
        kind = character_classes()[ord(c)] & 3
        if kind != 1 and current:
            tokens.append(current)
            current = ""
        if kind == 1:
            current += c
        elif kind == 2:
            tokens.append(c)
    return tokens + [current] * bool(current)


def tokens_of(table, i):
    first, last = table.token_offsets[i : i + 2]
    return [
        table.data[s : s + n].tobytes().decode("utf-8", "surrogatepass")
        for s, n in zip(table.token_starts[first:last], table.token_bytes[first:last], strict=True)
    ]


@given(texts=BATCHES)
def test_tokens_are_those_of_a_loop_over_characters(texts):
    table = TextTable.from_texts(texts)
    assert len(table) == len(texts)
    assert table.token_offsets.shape == (len(texts) + 1,) and table.token_offsets[-1] == len(table.token_starts)
    for i, text in enumerate(texts):
        expected = reference_tokens(text)
        assert tokens_of(table, i) == expected
        part = slice(*table.token_offsets[i : i + 2])
        assert table.token_characters[part].tolist() == [len(token) for token in expected]
        assert table.token_hashes[part].tolist() == [int(token_hash(token)) for token in expected]
        assert table.own_tokens[i] == sum(character_classes()[ord(t[0])] & 3 == 2 for t in expected)
        assert table.characters[i] == len(text)
        assert table.count(table.letters)[i] == sum(unicodedata.category(c)[0] == "L" for c in text)


@given(texts=BATCHES, other=BATCHES)
def test_a_document_does_not_depend_on_its_batch(texts, other):
    alone = TextTable.from_texts(texts)
    beside = TextTable.from_texts([*other, *texts, "été 中"])
    first, last = beside.token_offsets[len(other)], beside.token_offsets[len(other) + len(texts)]
    assert np.array_equal(alone.token_hashes, beside.token_hashes[first:last])


def test_tokens_by_example():
    table = TextTable.from_texts(["x_1 += naïve->f(42);", "", "...", "日本語 text ไทย", "cafe\u0301 한국어"])
    assert [tokens_of(table, i) for i in range(5)] == [
        ["x_1", "naïve", "f", "42"],
        [],
        [],
        ["日", "本", "語", "text", "ไ", "ท", "ย"],
        ["cafe\u0301", "한국어"],
    ]
    assert unicodedata.unidata_version == UNICODE_VERSION


def test_no_texts():
    table = TextTable.from_texts([])
    assert len(table) == 0 and table.token_offsets.tolist() == [0] and table.token_hashes.size == 0


def test_a_word_of_a_megabyte():
    table = TextTable.from_texts(["x" * 1_000_000, "x" * 999_999 + "y"])
    assert table.token_bytes.tolist() == [1_000_000] * 2
    assert table.token_hashes[0] != table.token_hashes[1]


def test_the_words_of_the_standard_library_do_not_collide():
    folder = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.py"))]
    table = TextTable.from_texts(texts)
    words = {token for i in range(len(texts)) for token in tokens_of(table, i)}
    hashes = np.unique(table.token_hashes)
    assert len(words) > 20_000 and len(hashes) == len(words)
    # Well mixed: any 16 bits hit about as many of 65536 slots as random values do.
    expected = 65536 * (1 - np.exp(-len(hashes) / 65536))
    for shift in (0, 24, 48):
        used = len(np.unique((hashes >> np.uint64(shift)) & np.uint64(0xFFFF)))
        assert abs(used - expected) < 0.02 * expected


@given(a=st.binary(max_size=40), b=st.binary(max_size=40))
def test_spans_hash_alike_exactly_when_equal(a, b):
    data = np.frombuffer(b"?" + a + b"??" + b + b"?" + bytes(8), dtype=np.uint8)
    starts = np.array([1, 3 + len(a)])
    hashes = span_hashes(data, starts, np.array([len(a), len(b)]))
    assert (hashes[0] == hashes[1]) == (a == b)


def test_hashes_stay_what_they_are():
    # Stored signatures rest on these values: a change needs a new code-format version of the stage.
    assert [hex(token_hash(word)) for word in ("a", "return", "internationalisation", "日")] == [
        "0xee1f3bf2a01854e8",
        "0x60f6fb56e511d3a9",
        "0xfef1cbf645e56669",
        "0x8c9910970b31cf04",
    ]

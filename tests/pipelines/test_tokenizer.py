import io
import itertools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tokenizer import Tokenizer, train
from pipelines.tokenizer.special import SPECIAL_NAMES
from pipelines.tokenizer.training import training_units
from pipelines.tokenizer.words import LONGEST_WORD, bounded, joined_pairs, word_starts
from schemas.errors import Refused, TokenmillError

VOCAB_SIZE = 900


def library_texts() -> list[str]:
    """The standard library's first modules, every other one indented with tabs."""
    paths = sorted(Path(os.__file__).parent.glob("*.py"))[:30]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [text.replace("    ", "\t") if i % 2 else text for i, text in enumerate(texts)]


TEXTS = library_texts()
MODEL = train(TEXTS, VOCAB_SIZE)
TOKENIZER = Tokenizer(MODEL)
CONTROLS = [TOKENIZER.begin, TOKENIZER.end, TOKENIZER.pad]
CONTROLS += [TOKENIZER.fim_begin, TOKENIZER.fim_hole, TOKENIZER.fim_end]

names = [name for role in SPECIAL_NAMES.values() for name in role]
difficult = [
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\x00",
    "\x1b",
    "\x85",
    "\u2028",
    "\u2581",
    "\u2585",
]
difficult += [
    "\ufeff",
    "\ufdd0",
    "\ufffd",
    "\U0010ffff",
    "e\u0301",
    "\u0130",
    "👩‍👩‍👧",
    "中文",
    "1234",
    "½",
    "<0x0A>",
]
difficult += ["<unk>", "def f(x):", "    return ", " ⁇ ", *names]
difficult_text = st.lists(st.sampled_from(difficult) | st.text(max_size=3)).map("".join)


def sentencepiece_model(**options: Any) -> bytes:
    """A model trained by SentencePiece itself, lossless unless `options` say otherwise."""
    lossless: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 400,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    lines = "\n".join(TEXTS[:4]).splitlines()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(lossless | options))
    return model.getvalue()


@settings(max_examples=300, deadline=None)
@given(st.text() | difficult_text)
def test_decoding_gives_the_text_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32
    assert TOKENIZER.decode(ids) == text
    assert not np.isin(ids, CONTROLS).any()


@settings(max_examples=200, deadline=None)
@given(st.text() | difficult_text | st.text(alphabet=" \n\tabAB_(.1é中"))
def test_tokens_are_sentencepieces_own(text: str) -> None:
    text = text.replace("\u2581", "")
    processor = sentencepiece.SentencePieceProcessor(model_proto=MODEL)
    assert TOKENIZER.encode(text).tolist() == processor.encode(text)
    assert processor.decode(processor.encode(text)) == text


def test_tokens_of_real_files_are_sentencepieces_own() -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=MODEL)
    for ids, text in zip(TOKENIZER.encode_batch(TEXTS), TEXTS, strict=True):
        assert ids.tolist() == processor.encode(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text() | difficult_text))
def test_a_texts_tokens_depend_on_it_alone(texts: list[str]) -> None:
    fresh = Tokenizer(MODEL)
    batch = TOKENIZER.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [fresh.encode(text).tolist() for text in reversed(texts)][::-1]


def test_long_texts_are_cut_without_loss() -> None:
    for line in (
        "x" * 4_250_000,
        "é" * 2_200_001,
        "a👩‍👩‍👧" * 250_000,
        "\u2581" * 1_500_000,
        " " * 4_250_000,
    ):
        assert TOKENIZER.decode(TOKENIZER.encode(line)) == line


def test_blocks_do_not_change_tokens() -> None:
    # no piece reaches over a line's end unless another line feed follows, so lines may be encoded apart
    lines = [line for text in TEXTS for line in re.findall(r"[^\n]+\n", text)] * 6
    text = "".join(lines)
    assert len(text) > 1 << 22
    np.testing.assert_array_equal(TOKENIZER.encode(text), np.concatenate(TOKENIZER.encode_batch(lines)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["ab ", "é" * 9000, "👍" * 5000, "\u2581", "x" * 3, " y" * 3000]), max_size=12))
def test_blocks_are_bounded_and_end_with_words(parts: list[str]) -> None:
    joined = joined_pairs([b" y", b"ab", b"xx", "éé".encode(), "👍👍".encode()])
    data = "".join(parts).encode()
    longest = LONGEST_WORD + 3616
    blocks = list(bounded(data, joined, longest))
    assert b"".join(blocks) == data
    assert all(len(block) <= longest for block in blocks)
    for block in blocks:
        block.decode()
        ends = np.append(word_starts(block, joined), len(block))
        words = [block[a:b] for a, b in itertools.pairwise(ends)]
        assert all(len(word.decode().encode()) <= LONGEST_WORD for word in words)
        assert all(word == "\u2581".encode() for word in words if "\u2581".encode() in word)


def test_words_end_where_no_piece_reaches_across() -> None:
    joined = joined_pairs([b"foo", b" foo", b"  ", b"\n\n", b";\n", b"x"])
    data = b"foo  foo;\n\nfoox x"
    starts = word_starts(data, joined)
    assert [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)] == [
        b"foo",
        b"  foo",
        b";\n\n",
        b"foo",
        b"x",
        b" ",
        b"x",
    ]


def test_training_gives_the_same_bytes_in_another_process() -> None:
    script = "import hashlib; from tests.pipelines.test_tokenizer import MODEL;print(hashlib.sha256(MODEL).hexdigest())"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert str(Path.cwd()).encode() not in MODEL


def test_whitespace_is_learned_and_digits_are_split() -> None:
    assert all(len(TOKENIZER.encode(run)) == 1 for run in (" ", "    ", "\n", "\n\n", "\t", "\t\t"))
    assert [TOKENIZER.decode([i]) for i in TOKENIZER.encode("2024")] == list("2024")


@settings(deadline=None)
@given(difficult_text | st.text(alphabet="ab \n\r\t", min_size=1).map(lambda text: text * 3000))
def test_training_units_lose_only_what_is_left_out(text: str) -> None:
    units = list(training_units(text))
    back = "".join(units).translate({0xFDD0: "\t", 0xFDD1: "\n", 0xFDD2: "\r"})
    assert back == text.translate(dict.fromkeys([0, 0x2581, 0x2585, 0xFDD0, 0xFDD1, 0xFDD2]))
    assert all(0 < len(unit.encode()) <= 32768 and "\n" not in unit for unit in units)


def test_a_vocabulary_the_sample_cannot_fill_names_one_it_can() -> None:
    sample = ["def foo(a, b):\n    return a + b\n"]
    with pytest.raises(TokenmillError, match=r"at most (\d+) pieces, not vocab_size 32000") as high:
        train(sample, 32000)
    with pytest.raises(TokenmillError, match="vocab_size 100 is too small") as low:
        train(sample, 100)
    most, least = (int(re.findall(r"set vocab_size to (\d+)", str(e.value))[0]) for e in (high, low))
    assert Tokenizer(train(sample, most)).vocab_size == most
    assert Tokenizer(train(sample, least)).vocab_size == least
    with pytest.raises(TokenmillError):
        train(sample, most + 1)


def test_training_without_text_or_with_a_failing_source() -> None:
    for empty in ([], ["", "\x00"]):
        with pytest.raises(TokenmillError, match="sample is empty"):
            train(empty, 400)

    def failing() -> Iterator[str]:
        yield "some text"
        raise FileNotFoundError("books.jsonl")

    with pytest.raises(FileNotFoundError, match=r"books\.jsonl"):
        train(failing(), 400)


def test_ids_are_reserved_from_the_start() -> None:
    assert [*CONTROLS] == [1, 2, 3, 4, 5, 6]
    assert TOKENIZER.vocab_size == VOCAB_SIZE
    ids = [TOKENIZER.begin, *TOKENIZER.encode("<s> x"), TOKENIZER.end, TOKENIZER.pad]
    assert TOKENIZER.decode(ids) == "<s> x"
    assert TOKENIZER.decode_showing_controls(ids) == "<s><s> x</s><pad>"


@settings(deadline=None)
@given(st.text(alphabet="é中👩 a"), st.data())
def test_a_span_of_tokens_decodes_to_a_part_of_the_text(text: str, data: st.DataObject) -> None:
    ids = TOKENIZER.encode(text)
    start = data.draw(st.integers(0, len(ids)))
    end = data.draw(st.integers(start, len(ids)))
    assert TOKENIZER.decode(ids[start:end]).strip("\ufffd") in text


def test_ids_outside_the_vocabulary_and_lone_surrogates_are_errors() -> None:
    for outside in (-1, VOCAB_SIZE):
        with pytest.raises(TokenmillError, match=f"token {outside} is outside"):
            TOKENIZER.decode([5, outside])
    with pytest.raises(TokenmillError, match=r"text 1 holds the lone surrogate U\+D800 at character 2"):
        TOKENIZER.encode_batch(["fine", "ab\ud800"])


def test_a_tokenizer_is_loaded_and_sent_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(MODEL)
    for other in (Tokenizer.load(path), pickle.loads(pickle.dumps(TOKENIZER))):
        assert other.model_bytes == MODEL
        np.testing.assert_array_equal(other.encode(TEXTS[0]), TOKENIZER.encode(TEXTS[0]))


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_given_model_gets_the_special_tokens_it_lacks(model_type: str) -> None:
    model = sentencepiece_model(model_type=model_type, bos_id=-1, control_symbols=["<fim_suffix>"])
    tokenizer = Tokenizer(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokenizer.end == pieces.eos_id()
    assert tokenizer.fim_hole == pieces.piece_to_id("<fim_suffix>")
    appended = [tokenizer.begin, tokenizer.pad, tokenizer.fim_begin, tokenizer.fim_end]
    assert appended == [400, 401, 402, 403]
    assert tokenizer.vocab_size == 404
    text = "<s> x\u2581\n<fim_suffix>  "
    assert tokenizer.decode([tokenizer.begin, *tokenizer.encode(text), tokenizer.fim_end]) == text
    assert tokenizer.decode_showing_controls([400, 5, 402])[:3] == "<s>"


def test_a_special_name_that_text_can_produce_is_no_special_token() -> None:
    tokenizer = Tokenizer(sentencepiece_model(user_defined_symbols=["<pad>"]))
    assert tokenizer.pad == 400
    assert tokenizer.pad not in tokenizer.encode("<pad>")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "'nmt_nfkc'"),
        ({"add_dummy_prefix": True}, "add_dummy_prefix"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
        ({"byte_fallback": False}, "byte fallback"),
    ],
)
def test_a_lossy_model_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        Tokenizer(sentencepiece_model(**options))


def test_what_is_no_model_is_refused() -> None:
    for junk in (b"", b"junk", MODEL[:5000]):
        with pytest.raises(Refused, match="not a SentencePiece model"):
            Tokenizer(junk)

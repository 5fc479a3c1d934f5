"""Target: the tokenizer is lossless on every text, alone and in a batch."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import sentencepiece
from hypothesis import strategies as st

from pipelines.tokenizer import Tokenizer, train
from pipelines.tokenizer.words import LONGEST_WORD
from tests.fuzz.target import Target
from tests.fuzz.texts import ODD, UNICODE, WORDS


@cache
def _tokenizer() -> Tokenizer:
    """A small model trained on what the texts here are made of, and on nothing else."""
    lines = [f"{a}{b} {a}\n" for a in WORDS for b in (*ODD, *WORDS)]
    return Tokenizer(train(["".join(lines).encode("utf-8", "ignore").decode("utf-8")], 700))


@cache
def _sentencepiece() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=_tokenizer().model_bytes)


def codec_law(texts: list[str], ids: list[int]) -> None:
    """Texts come back; no token is a reserved one; a text's tokens are its own, and SentencePiece's; ids decode."""
    tokenizer = _tokenizer()
    reserved = [tokenizer.begin, tokenizer.end, tokenizer.pad]
    reserved += [tokenizer.fim_begin, tokenizer.fim_hole, tokenizer.fim_end, 0]
    together = tokenizer.encode_batch(texts)
    for text, encoded in zip(texts, together, strict=True):
        assert encoded.dtype == np.int32 and not np.isin(encoded, reserved).any()
        assert tokenizer.decode(encoded) == text == tokenizer.decode_showing_controls(encoded)
        assert np.array_equal(tokenizer.encode(text), encoded)
        if "\u2581" not in text and len(text.encode()) <= LONGEST_WORD:
            assert encoded.tolist() == _sentencepiece().encode(text)
    fresh = Tokenizer(tokenizer.model_bytes)
    assert all(map(np.array_equal, fresh.encode_batch(texts), together))
    tokenizer.decode([i % tokenizer.vocab_size for i in ids]).encode("utf-8")


_LONG: Final = st.builds(
    lambda text, unit, times: text + unit * times,
    UNICODE,
    st.sampled_from(["x", "é", "中", "👩", " ", "\n", "\u2581", "ab", "aé"]),
    st.sampled_from([LONGEST_WORD // 4 - 1, LONGEST_WORD // 2, LONGEST_WORD - 1, LONGEST_WORD, LONGEST_WORD + 1]),
)
TARGETS: Final = [
    Target(
        "codec",
        codec_law,
        {
            "texts": st.lists(st.one_of(UNICODE, UNICODE, UNICODE, UNICODE, _LONG), max_size=4),
            "ids": st.lists(st.integers(0, 1 << 16), max_size=20),
        },
    )
]

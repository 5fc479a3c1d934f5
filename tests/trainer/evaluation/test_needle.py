"""Haystacks are what they say, and whoever reads the needle finds every key."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loader import Shards
from trainer.evaluation.needle import WORDS, Haystacks, Needle, Unsuited, needle, retrieval, words_alike
from trainer.mesh import Mesh
from trainer.text import Text, text_of


@pytest.fixture(scope="module")
def shards(small_run: Path) -> Shards:
    return Shards(small_run / "shards/256")


@pytest.fixture(scope="module")
def text(shards: Shards) -> Text:
    found = text_of(shards)
    assert found is not None
    return found


KEY = ("amber", "copper", "forest")


def test_a_question_ends_before_its_answer(text: Text) -> None:
    found = needle(text, KEY)
    assert text.decode(found.sentence) == "\nThe pass key is amber copper forest.\n"
    assert text.decode(found.question) == "\nThe pass key is amber"
    assert text.decode(found.answer) == " copper forest"


def test_words_of_keys_have_the_same_number_of_tokens(text: Text) -> None:
    words = words_alike(text)
    assert len(words) >= 8 and set(words) <= set(WORDS)
    assert len({len(text.encode(f" {word}")) for word in words}) == 1
    assert len(set(WORDS)) == 16


def test_needles_stand_at_their_depths(shards: Shards, text: Text) -> None:
    haystacks = Haystacks(shards, text, 200, depths=5, samples=3)
    plain: set[bytes] = set()
    for number in range(haystacks.count):
        tokens, depth = haystacks.haystack(number)
        each = haystacks.needles[number % 3]
        assert depth == number // 3
        assert len(tokens) == 201
        assert tokens[0] == shards.tokenizer.begin
        assert tokens[-len(each.answer) - len(each.question) :].tolist() == [*each.question, *each.answer]
        (at,) = [i for i in range(201) if tokens[i : i + len(each.sentence)].tolist() == each.sentence]
        room = 200 - len(each.sentence) - len(each.question) - len(each.answer)
        assert at == 1 + round(room * depth / 4)
        around = np.concatenate([tokens[:at], tokens[at + len(each.sentence) :]])
        assert not np.isin(around[1:], [shards.tokenizer.begin, shards.tokenizer.end, shards.tokenizer.pad]).any()
        plain.add(around.tobytes())
    assert len(plain) == 3  # a sample's text is the same at all depths


class Reader:
    """Reads the haystack: logits of what follows the needle's question where it stands first, up to `reach` back."""

    def __init__(self, needles: list[Needle], reach: int) -> None:
        self.needles, self.reach = needles, reach

    def __call__(self, tokens_BT: Any, last: int) -> Any:
        return SimpleNamespace(logits=tf.numpy_function(self.read, [tokens_BT, last], tf.float32))

    def read(self, tokens_BT: np.ndarray, last: int) -> np.ndarray:
        logits = np.zeros([len(tokens_BT), last, 1024], np.float32)
        for row, tokens in enumerate(tokens_BT.tolist()):
            for each in self.needles:
                size = len(each.question)
                for i in range(max(0, len(tokens) - self.reach), len(tokens) - size - last):
                    if tokens[i : i + size] == each.question == tokens[-size - last + 1 : -last + 1]:
                        logits[row, np.arange(last), tokens[i + size : i + size + last]] = 1
        return logits


@pytest.mark.parametrize("rows", [1, 4])
def test_shares_found(shards: Shards, text: Text, rows: int) -> None:
    haystacks = Haystacks(shards, text, 256, depths=3, samples=3)
    calls: list[int] = []
    model: Any = Reader(haystacks.needles, 256)
    found = retrieval(model, haystacks, Mesh(), rows, lambda: calls.append(1))
    assert (found.depths, found.found, found.samples) == ([0.0, 0.5, 1.0], [1.0, 1.0, 1.0], 3)
    assert found.mean == 1.0
    assert len(calls) == -(-9 // rows)
    assert retrieval(Reader(haystacks.needles, 120), haystacks, Mesh(), rows, int).found == [0.0, 0.0, 1.0]  # type: ignore[arg-type]


def test_what_is_unsuited_says_why(shards: Shards, text: Text, small_run: Path) -> None:
    model: Any = None
    for haystacks, why in (
        (Haystacks(shards, text, 24, 3, 2), "24 tokens have no room"),
        (Haystacks(shards, text, 256, 3, 0), "no samples"),
    ):
        found = retrieval(model, haystacks, Mesh(), 1, int)
        assert found.mean is None
        assert why in str(found.reason)

    class Fused(Text):
        """As a tokenizer that joins the first word with the second."""

        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace(" amber copper", " acopper"))

    with pytest.raises(Unsuited, match="elsewhere than before the answer"):
        needle(Fused((small_run / "tokenizer/tokenizer.model").read_bytes(), shards.tokenizer, "fused"), KEY)

"""Retrieval: a pass key of three words said once in a long text, and asked for at its end by its first word.

    begin, text, "\\nThe pass key is amber copper forest.\\n", text, "\\nThe pass key is amber" -> " copper forest"

The key is found where each of the answer's tokens is the likeliest one after those before it, which is when greedy
generation would write it. Words are drawn from 16, without repetition: a guess is right once in 210 times. The text is
held out. Text and keys are the same for the same view.

B: haystacks of a batch, T: tokens of one, A: tokens of the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader import Shards
from loader.cache import ShardCache
from loader.files import Lease
from schemas.permutation import IntArray
from trainer.evaluation.results import Retrieval
from trainer.mesh import Mesh
from trainer.model import Model
from trainer.model.linear import Tensor
from trainer.text import Text

SENTENCE, QUESTION = "The pass key is {} {} {}.\n", "The pass key is {}"
WORDS = """
amber apple arrow bronze castle copper desert eagle forest garden island lemon marble ocean silver tiger
""".split()  # noqa: SIM905


class Unsuited(Exception):
    """Why haystacks cannot be made."""


@dataclass(frozen=True)
class Needle:
    """Tokens of the sentence with its key, of the question, and of the answer to it."""

    sentence: list[int]
    question: list[int]
    answer: list[int]


def needle(text: Text, key: Sequence[str]) -> Needle:
    """That of a key's three words.

    Raises Unsuited where no question ends before the answer: where its tokens depend on the text around it.
    """
    sentence, question = text.encode("\n" + SENTENCE.format(*key)), text.encode("\n" + QUESTION.format(key[0]))
    said = text.encode("\n" + SENTENCE.format(*key).partition(".")[0])
    if said[: len(question)] != question or sentence[: len(said)] != said:
        raise Unsuited(f"the tokenizer cuts {text.decode(said)!r} elsewhere than before the answer and after it")
    return Needle(sentence, question, said[len(question) :])


def words_alike(text: Text) -> list[str]:
    """Those of WORDS that have the same number of tokens, the one that most have."""
    tokens = [len(text.encode(f" {word}")) for word in WORDS]
    most = Counter(tokens).most_common(1)[0][0]
    return [word for word, count in zip(WORDS, tokens, strict=True) if count == most]


@dataclass(frozen=True)
class Haystacks:
    """Haystacks of a view's held-out text. length: tokens that the model reads of each; depths: how many."""

    shards: Shards
    text: Text
    length: int
    depths: int
    samples: int
    cache: ShardCache | None = None

    @property
    def count(self) -> int:
        """How many there are: for each depth `samples`."""
        return self.depths * self.samples

    @cached_property
    def needles(self) -> list[Needle]:
        """One for each sample, asked for at every depth. All answers have the same number of tokens.

        Raises Unsuited.
        """
        random, words = np.random.default_rng(self.length), words_alike(self.text)
        found = [needle(self.text, random.choice(words, 3, replace=False).tolist()) for _ in range(self.samples)]
        if len({len(each.answer) for each in found}) > 1:
            raise Unsuited("words do not have the same number of tokens in a sentence as alone")
        longest = max(len(each.sentence) + len(each.question) for each in found)
        if 2 * longest > self.length:
            raise Unsuited(f"{self.length} tokens have no room for {longest} of needle and question among text")
        return found

    @cached_property
    def filler(self) -> IntArray:
        """Tokens of held-out records of the order's first component that has some, without special ones.

        Raises Unsuited.
        """
        name = next((name for name in self.shards.components if name in self.shards.validation), None)
        if name is None:
            raise Unsuited("the view holds nothing out")
        wanted = 2 * self.length
        lease = None if self.cache is None else Lease(self.cache)
        data = self.shards.dataset(1, split="validation", component=name, fields=["tokens"], cache=lease)
        parts: list[IntArray] = []
        for batch in data.take(-(-2 * wanted // self.shards.sequence_length)):
            tokens = batch["tokens"].numpy()[0].astype(np.int64)
            parts.append(tokens[~np.isin(tokens, self._special)])
        if lease is not None:
            lease.close()
        found = np.concatenate(parts)
        if not len(found):
            raise Unsuited(f"held-out records of {name} have no text")
        return np.resize(found, max(len(found), wanted))  # said again from its beginning where it is too short

    @property
    def _special(self) -> list[int]:
        info = self.shards.tokenizer
        return [info.begin, info.end, info.pad, info.fim_begin, info.fim_hole, info.fim_end]

    def haystack(self, number: int) -> tuple[IntArray, int]:
        """The number-th, int64 [length + 1] with the answer at its end, and which depth it has."""
        depth, sample = divmod(number, self.samples)
        each = self.needles[sample]
        room = self.length + 1 - 1 - len(each.sentence) - len(each.question) - len(each.answer)
        begin = sample * (len(self.filler) - room) // max(self.samples - 1, 1)
        text = self.filler[begin : begin + room]
        before = round(room * depth / (self.depths - 1))
        parts = [[self.shards.tokenizer.begin], text[:before], each.sentence, text[before:], each.question, each.answer]
        return np.concatenate([np.asarray(part, np.int64) for part in parts]), depth

    def batches(self, rows: int, rank: int, processes: int) -> Iterator[tuple[IntArray, IntArray]]:
        """A process's haystacks, [rows, length + 1], and their depths, -1 for those that fill up the last batch."""
        step = rows * processes
        for first in range(0, self.count, step):
            numbers = range(first + rank * rows, first + (rank + 1) * rows)
            made = [self.haystack(min(number, self.count - 1)) for number in numbers]
            depths = [depth if number < self.count else -1 for number, (_, depth) in zip(numbers, made, strict=True)]
            yield np.stack([tokens for tokens, _ in made]), np.array(depths, np.int64)


def retrieval(model: Model, haystacks: Haystacks, mesh: Mesh, rows: int, alive: Callable[[], None]) -> Retrieval:
    """Shares of the keys that the model finds, by depth; `rows` haystacks at a time in each process of a mesh, all of
    which call it. Says why where the tokenizer or the view is unsuited.
    """
    depths = [depth / (haystacks.depths - 1) for depth in range(haystacks.depths)]
    try:
        answer = len(haystacks.needles[0].answer) if haystacks.samples else 0
        if not answer:
            raise Unsuited("no samples are asked for")
        haystacks.filler  # noqa: B018  (whether there is some)
    except Unsuited as error:
        return Retrieval(haystacks.length, [], [], 0, str(error))

    def found(tokens: Tensor, depth: Tensor) -> Tensor:
        logits = model(tokens[:, :-1], last=answer).logits
        right_BA = tf.argmax(logits, axis=-1, output_type=tf.int32) == tokens[:, -answer:]
        right_B = tf.cast(tf.reduce_all(right_BA, axis=1), tf.float32)
        return mesh.all.total(tf.math.unsorted_segment_sum(right_B, depth, haystacks.depths))

    shapes = tf.TensorSpec([rows, haystacks.length + 1], tf.int32), tf.TensorSpec([rows], tf.int32)
    # One program for these shapes; a tf.function of each view would warn of being traced again.
    program = tf.function(found, autograph=False).get_concrete_function(*shapes)
    sums = np.zeros(haystacks.depths)
    for tokens, depth in haystacks.batches(rows, mesh.rank, mesh.processes):
        with mesh.watched("evaluation"):
            sums += program(tf.constant(tokens, tf.int32), tf.constant(depth, tf.int32)).numpy()
        alive()
    return Retrieval(haystacks.length, depths, [float(each) for each in sums / haystacks.samples], haystacks.samples)

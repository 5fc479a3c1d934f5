"""Text made by a model, a token at a time.

Every token runs the whole context through the model again: there is no cache of keys and values. This is for looking at
a model, not for serving it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from schemas.errors import Refused
from trainer.exchange import read_model
from trainer.model import Model
from trainer.model.linear import Tensor
from trainer.text import Text


def generate(
    model: Model, text: Text, prompt: str, tokens: int, temperature: float = 1.0, seed: int = 0
) -> Iterator[int]:
    """At most `tokens` tokens that follow a document's beginning `prompt`; ends before the end token.

    temperature: 0 takes the likeliest token; 1 draws from the model's distribution, by `seed`.

    Raises:
        Refused: prompt and tokens are longer than the model's positions.
    """
    ids = [text.info.begin, *text.encode(prompt)]
    length = len(ids) + tokens
    if length > model.config.max_position_embeddings:
        raise Refused(
            f"prompt and new tokens are {length} positions, the model has {model.config.max_position_embeddings}: ask "
            f"for fewer tokens"
        )
    random = np.random.default_rng(seed)

    @tf.function
    def following(ids_1T: Tensor, at: Tensor) -> Tensor:
        # What stands after `at` is not seen from there: attention is causal.
        return model(ids_1T).logits[0, at]

    row = np.zeros([1, length], np.int32)
    row[0, : len(ids)] = ids
    for at in range(len(ids) - 1, length - 1):
        logits = following(tf.constant(row), tf.constant(at)).numpy().astype(np.float64)
        # Ids beyond the tokenizer's, where the model has some, were never trained.
        chosen = choose(logits[: text.info.vocab_size], temperature, random)
        if chosen == text.info.end:
            return
        row[0, at + 1] = chosen
        yield chosen


def choose(logits: np.ndarray, temperature: float, random: np.random.Generator) -> int:
    """An index drawn from softmax(logits / temperature), [V]; the first of the largest at temperature 0."""
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = logits / temperature
    p = np.exp(scaled - scaled.max())
    return int(random.choice(len(p), p=p / p.sum()))


def print_generated(
    folder: str, prompt: str, tokens: int, temperature: float, seed: int, step: int | None = None
) -> None:
    """Print the prompt and its continuation by the model that `read_model` finds in `folder`, as they are made.

    Raises:
        Refused: there is no model or tokenizer, or a number makes no sense.
    """
    if tokens < 1 or temperature < 0:
        raise Refused(f"--tokens {tokens} --temperature {temperature}: give 1 or more, and 0 or more")
    model, place, _ = read_model(folder, step)
    text = Text.load(place)
    print(prompt, end="", flush=True)
    shown = ""
    made: list[int] = []
    for token in generate(model, text, prompt, tokens, temperature, seed):
        made.append(token)
        whole = text.decode(made)
        # A character may need several tokens; until they are there it reads as U+FFFD.
        if not whole.endswith("\ufffd"):
            print(whole[len(shown) :], end="", flush=True)
            shown = whole
    print(text.decode(made)[len(shown) :])

"""Fill-in-the-middle (FIM) of whole documents, prefix-suffix-middle: Bavarian et al. 2022, arXiv 2207.14255.

A document of n characters is cut at two of the n + 1 places beside them, drawn uniformly, and written
`begin fim_begin PREFIX fim_hole SUFFIX fim_end MIDDLE end`. Its key alone decides whether and where.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.tokenizer.codec import Ids, Tokenizer
from schemas.errors import TokenmillError


def fim_cuts(characters: int, key: int, rate: float) -> tuple[int, int] | None:
    """Return the two ascending cuts in [0, characters], or None when the document stays as it is.

    `key`: uint64, a keyed hash of the document and the run's seed. `rate`: share of documents to cut, in
    [0, 1]; raising it adds documents and moves no cut.
    """
    digest = hashlib.blake2b(key.to_bytes(8, "little"), digest_size=24, person=b"tokenmill.fim").digest()
    chance, first, second = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8, 16))
    if chance >= rate * 2.0**64:
        return None
    cuts = first * (characters + 1) >> 64, second * (characters + 1) >> 64
    return min(cuts), max(cuts)


def encode_documents(
    tokenizer: Tokenizer, texts: Sequence[str], keys: Sequence[int] | npt.NDArray[np.uint64], rate: float
) -> list[Ids]:
    """Return each document's ids, int32 [tokens] each, from begin to end, FIM applied at `rate` by its key.

    `keys`: one uint64 a text. Raises TokenmillError when a text holds a lone surrogate.
    """
    cuts = [fim_cuts(len(text), int(key), rate) for text, key in zip(texts, keys, strict=True)]
    parts: list[str] = []
    for text, cut in zip(texts, cuts, strict=True):
        parts += [text] if cut is None else [text[: cut[0]], text[cut[1] :], text[cut[0] : cut[1]]]
    encoded = iter(tokenizer.encode_batch(parts))
    special = {
        name: np.array([getattr(tokenizer, name)], np.int32)
        for name in ("begin", "end", "fim_begin", "fim_hole", "fim_end")
    }
    documents = []
    for cut in cuts:
        body = [next(encoded)]
        if cut is not None:
            suffix, middle = next(encoded), next(encoded)
            body = [special["fim_begin"], *body, special["fim_hole"], suffix, special["fim_end"], middle]
        documents.append(np.concatenate([special["begin"], *body, special["end"]]))
    return documents


def undo_fim(tokenizer: Tokenizer, ids: npt.ArrayLike) -> str:
    """Return the text of one whole document's ids, with or without FIM, in its original order.

    Raises TokenmillError when only some of the FIM tokens are there, or not in their order.
    """
    array = np.asarray(ids)
    at = [np.flatnonzero(array == i) for i in (tokenizer.fim_begin, tokenizer.fim_hole, tokenizer.fim_end)]
    if all(len(found) == 0 for found in at):
        return tokenizer.decode(array)
    if any(len(found) != 1 for found in at) or not at[0][0] < at[1][0] < at[2][0]:
        raise TokenmillError(
            "these ids are no whole FIM document: fim_begin, fim_hole and fim_end must follow in order"
        )
    begin, hole, end = (int(found[0]) for found in at)
    prefix, suffix, middle = array[begin + 1 : hole], array[hole + 1 : end], array[end + 1 :]
    return "".join(tokenizer.decode(part) for part in (prefix, middle, suffix))

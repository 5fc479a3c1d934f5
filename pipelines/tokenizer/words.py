"""Cutting UTF-8 text into words that a model provably encodes one by one.

A piece that covers the neighbours a, b in the text holds the pair (a, b) itself. So where no piece of the
vocabulary holds the pair, no piece reaches across, and encoding the two sides apart gives the same tokens as
encoding them together. Text repeats its words: each distinct one need be encoded once.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# SentencePiece's time and memory grow faster than the text it is given: a longer word is cut.
LONGEST_WORD = 1 << 14
SPACE_SYMBOL = "\u2581".encode()


def joined_pairs(pieces: Iterable[bytes]) -> npt.NDArray[np.bool_]:
    """Return bool [65536]: whether byte `i & 255` may follow byte `i >> 8` in a word, given all pieces."""
    joined = np.zeros((256, 256), np.bool_)
    for first, second in {pair for piece in pieces for pair in pairwise(piece)}:
        joined[first, second] = True
    joined[:, 0x80:0xC0] = True  # never cut inside a character
    return joined.reshape(-1)


def word_starts(data: bytes, joined: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the ascending offsets in UTF-8 `data` where words start: int64, the first 0, none for no data.

    Every U+2581 is a word of its own, and a word longer than LONGEST_WORD bytes is cut at that many bytes, or
    up to three fewer, so as to keep characters whole.
    """
    if not data:
        return np.zeros(0, np.int64)
    byte = np.frombuffer(data, np.uint8)
    starts = np.empty(len(byte), np.bool_)
    starts[0] = True
    np.logical_not(joined[byte[:-1].astype(np.uint16) << 8 | byte[1:]], out=starts[1:])
    at = data.find(SPACE_SYMBOL)
    while at >= 0:
        starts[at] = True
        if at + 3 < len(byte):
            starts[at + 3] = True
        at = data.find(SPACE_SYMBOL, at + 3)
    offsets = np.flatnonzero(starts)
    lengths = np.diff(offsets, append=len(byte))
    long = np.flatnonzero(lengths > LONGEST_WORD)
    if len(long) == 0:
        return offsets
    cuts = [cut for i in long for cut in _cuts(data, int(offsets[i]), int(offsets[i] + lengths[i]))]
    return np.sort(np.concatenate([offsets, np.array(cuts, np.int64)]))


def bounded(data: bytes, joined: npt.NDArray[np.bool_], longest: int) -> Iterator[bytes]:
    """Yield UTF-8 `data` in pieces of at most `longest` bytes, each ending where a word ends.

    A piece without a word's end in its last LONGEST_WORD bytes ends between two characters.
    """
    start = 0
    while len(data) - start > longest:
        end = start + longest
        tail = _character_start(data, end - LONGEST_WORD)
        # the byte after the piece tells whether a word ends with it
        last = int(word_starts(data[tail : end + 1], joined)[-1])
        end = tail + last if last > 0 else _character_start(data, end)
        yield data[start:end]
        start = end
    yield data[start:]


def _cuts(data: bytes, start: int, end: int) -> Iterator[int]:
    while end - start > LONGEST_WORD:
        start = _character_start(data, start + LONGEST_WORD)
        yield start


def _character_start(data: bytes, at: int) -> int:
    while data[at] & 0xC0 == 0x80:
        at -= 1
    return at

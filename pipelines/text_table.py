"""Token tables of a batch of texts, made without a loop over words.

A token is a maximal run of word characters (Unicode letters, digits, combining marks and the underscore); a
character of a script written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar and their kin) is a token
of its own. Everything else separates. All work is done on the UTF-8 bytes of the batch, so a few non-ASCII
documents among many ASCII ones cost no more than their own characters, and a token has one hash wherever it
stands.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

UNICODE_VERSION: Final = unicodedata.unidata_version
"""The Unicode database tokens (and so shingles and signatures) depend on."""

NEWLINE: Final = 0x0A
_PADDING: Final = 8
_SEPARATOR, _WORD, _OWN, _OWN_REST = 0, 1, 2, 3
_CHUNK: Final = 1 << 15  # spans hashed at once: the working set stays in the L2 cache

_UNSPACED_RANGES: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x2FDF),  # CJK and Kangxi radicals
    (0x3005, 0x303F),  # ideographic marks and numerals
    (0x3040, 0x312F),  # kana, bopomofo
    (0x31A0, 0x31BF),  # bopomofo extended
    (0x31F0, 0x31FF),  # katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA9E0, 0xA9FF),  # Myanmar extended B
    (0xAA60, 0xAADF),  # Myanmar extended A, Tai Viet
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFF9F),  # halfwidth katakana
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # kana extensions, Nushu
    (0x20000, 0x3FFFF),  # Han
)

_M1: Final = np.uint64(0x9E3779B97F4A7C15)
_M2: Final = np.uint64(0xBF58476D1CE4E5B9)
_M3: Final = np.uint64(0x94D049BB133111EB)
_M4: Final = np.uint64(0xD6E8FEB86659FD93)
_LOW_BYTES: Final = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)

_ASCII_WORD: Final = bytes(_WORD if chr(i).isalnum() or i == 0x5F else _SEPARATOR for i in range(128)) + bytes(128)
_ASCII_LETTER: Final = bytes(int(chr(i).isalpha()) for i in range(128)) + bytes(128)
_CONTINUATION: Final = bytes(int(0x80 <= i < 0xC0) for i in range(256))


@cache
def character_classes() -> NDArray[np.uint8]:
    """[0x110000] class of every code point: 0 separates, 1 belongs to a word, 2 is a token of its own.

    4 is added for letters. Depends on `UNICODE_VERSION`.
    """
    major = np.array([ord(unicodedata.category(chr(i))[0]) for i in range(0x110000)], dtype=np.uint8)
    word = np.isin(major, np.frombuffer(b"LMN", dtype=np.uint8))
    word[ord("_")] = True
    classes = word.astype(np.uint8)
    for first, last in _UNSPACED_RANGES:
        classes[first : last + 1] *= _OWN
    classes[major == ord("L")] += 4
    return classes


@dataclass(frozen=True)
class TextTable:
    """The tokens of n documents.

    data: uint8, the UTF-8 of all documents, a newline after each, then zero bytes of padding.
    document_offsets: int64 [n + 1]; document i is data[document_offsets[i] : document_offsets[i + 1] - 1].
    characters: int64 [n], code points.
    token_starts, token_bytes: int64 [T], where a token starts in `data` and its length in bytes.
    token_offsets: int64 [n + 1]; the tokens of document i are token_offsets[i] to token_offsets[i + 1].
    own_tokens: int64 [n], tokens that are a character of a script without spaces.
    classes: uint8, for each byte of `data` before the padding: 0 separates, else part of a token.
    leads: int64, where the characters beyond ASCII start in `data`; lead_points: int64, their code points.
    """

    data: NDArray[np.uint8]
    document_offsets: NDArray[np.int64]
    characters: NDArray[np.int64]
    token_starts: NDArray[np.int64]
    token_bytes: NDArray[np.int64]
    token_offsets: NDArray[np.int64]
    own_tokens: NDArray[np.int64]
    classes: NDArray[np.uint8]
    leads: NDArray[np.int64]
    lead_points: NDArray[np.int64]

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> TextTable:
        """The table of `texts`, any strings at all (lone surrogates included)."""
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
        raw = b"\n".join([*pieces, bytes(_PADDING)])
        sizes = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        document_offsets = _offsets(sizes + 1)
        end = int(document_offsets[-1])
        data = np.frombuffer(raw, dtype=np.uint8)
        classes = np.frombuffer(raw.translate(_ASCII_WORD), dtype=np.uint8)[:end]
        characters = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        leads = np.empty(0, dtype=np.int64)
        points = np.empty(0, dtype=np.int64)
        owns = np.empty(0, dtype=np.int64)
        if int(characters.sum()) != int(sizes.sum()):
            leads, points = _decode_non_ascii(data)
            classes = classes.copy()
            owns = _classify(classes, leads, points)
        starts, lengths = _tokens(classes, bool(owns.size))
        return cls(
            data=data,
            document_offsets=document_offsets,
            characters=characters,
            token_starts=starts,
            token_bytes=lengths,
            token_offsets=np.searchsorted(starts, document_offsets),
            own_tokens=np.diff(np.searchsorted(owns, document_offsets)),
            classes=classes,
            leads=leads,
            lead_points=points,
        )

    def __len__(self) -> int:
        return len(self.characters)

    @cached_property
    def token_hashes(self) -> NDArray[np.uint64]:
        """uint64 [T]: hashes of the tokens' UTF-8 bytes."""
        return span_hashes(self.data, self.token_starts, self.token_bytes)

    @cached_property
    def token_characters(self) -> NDArray[np.int64]:
        """int64 [T]: lengths of the tokens in characters."""
        return self.span_characters(self.token_starts, self.token_starts + self.token_bytes)

    @cached_property
    def letters(self) -> NDArray[np.bool_]:
        """bool, a byte of `data` before the padding each: whether a letter starts there."""
        letters = np.frombuffer(bytearray(self.data.tobytes().translate(_ASCII_LETTER)), dtype=np.bool_)
        letters = letters[: len(self.classes)]
        letters[self.leads] = character_classes()[self.lead_points] >= 4
        return letters

    @cached_property
    def _continuations(self) -> NDArray[np.int32]:
        """int32 [bytes + 1]: UTF-8 continuation bytes before each byte."""
        marks = np.frombuffer(self.data.tobytes().translate(_CONTINUATION), dtype=np.uint8)
        counts = np.zeros(len(marks) + 1, dtype=np.int32)
        np.cumsum(marks, out=counts[1:])
        return counts

    def span_characters(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64: characters of the byte spans [starts, ends), which begin and end between characters."""
        if not self.leads.size:
            return ends - starts
        counts = self._continuations
        return ends - starts - (counts[ends] - counts[starts])

    def count(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """int64 [n]: marked bytes a document; `mask` has a value for every byte but the padding."""
        # A loop over documents, yet count_nonzero is ten times as fast as any sum by segments.
        bounds = self.document_offsets.tolist()
        counted = map(np.count_nonzero, (mask[a:b] for a, b in pairwise(bounds)))
        return np.fromiter(counted, dtype=np.int64, count=len(self))


def span_hashes(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 [m]: hashes of the spans data[starts : starts + lengths], equal for equal bytes and well mixed.

    A span is cut into pieces of 8 bytes. The first is multiplied by an odd constant, each other goes
    through the splitmix64 finaliser (Steele, Lea, Flood 2014) after its number is mixed in; their sum and
    the length go through it once more. `data` carries 8 bytes beyond the last span.
    """
    words = np.ndarray((max(len(data) - 7, 0),), dtype="<u8", buffer=data, strides=(1,))
    hashes = np.empty(len(starts), dtype=np.uint64)
    for a in range(0, len(starts), _CHUNK):
        part_starts, part_lengths = starts[a : a + _CHUNK], lengths[a : a + _CHUNK]
        total = words[part_starts]
        total &= _LOW_BYTES[np.minimum(part_lengths, 8)]
        total *= _M1
        _add_further_pieces(total, words, part_starts, part_lengths)
        total += part_lengths.astype(np.uint64) * _M4
        hashes[a : a + _CHUNK] = mix64(total)
    return hashes


def _add_further_pieces(
    total: NDArray[np.uint64],
    words: NDArray[np.uint64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Add the hashes of all pieces but the first to `total`, in place."""
    long = np.flatnonzero(lengths > 8)
    if not long.size:
        return
    pieces = (lengths[long] - 1) >> 3
    first = _offsets(pieces)
    number = np.arange(1, first[-1] + 1) - np.repeat(first[:-1], pieces)
    left = np.repeat(lengths[long], pieces) - 8 * number
    piece = words[np.repeat(starts[long], pieces) + 8 * number]
    piece &= _LOW_BYTES[np.minimum(left, 8)]
    piece += number.astype(np.uint64) * _M1
    total[long] += np.add.reduceat(mix64(piece), first[:-1])


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser, a bijection of uint64; works in place and returns `values`."""
    values ^= values >> np.uint64(30)
    values *= _M2
    values ^= values >> np.uint64(27)
    values *= _M3
    values ^= values >> np.uint64(31)
    return values


def token_hash(token: str) -> np.uint64:
    """The hash the tables give to one token."""
    raw = token.encode("utf-8", "surrogatepass")
    data = np.frombuffer(raw + bytes(_PADDING), dtype=np.uint8)
    return span_hashes(data, np.zeros(1, dtype=np.int64), np.array([len(raw)]))[0]


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [m + 1]: where each of m runs of the given lengths starts, and the end."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _decode_non_ascii(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where characters beyond ASCII start in valid UTF-8, and their code points."""
    leads = np.flatnonzero(data >= 0xC0)
    lead = data[leads].astype(np.int64)
    one, two, three = (data[leads + i].astype(np.int64) & 0x3F for i in (1, 2, 3))
    points = (lead & 0x1F) << 6 | one
    points = np.where(lead >= 0xE0, (lead & 0x0F) << 12 | one << 6 | two, points)
    points = np.where(lead >= 0xF0, (lead & 0x07) << 18 | one << 12 | two << 6 | three, points)
    return leads, points


def _classify(classes: NDArray[np.uint8], leads: NDArray[np.int64], points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Write the classes of the characters beyond ASCII; returns where tokens of one character start."""
    kinds = character_classes()[points] & 3
    classes[leads] = kinds
    rest = np.where(kinds == _OWN, _OWN_REST, kinds)
    for i, least in ((1, 0x80), (2, 0x800), (3, 0x10000)):
        long_enough = points >= least
        classes[leads[long_enough] + i] = rest[long_enough]
    return leads[kinds == _OWN]


def _tokens(classes: NDArray[np.uint8], any_own: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths in bytes of the tokens; the last byte always separates."""
    if not any_own:
        changes = np.empty(len(classes), dtype=np.bool_)
        changes[:1] = classes[:1] != _SEPARATOR
        np.not_equal(classes[1:], classes[:-1], out=changes[1:])
        edges = np.flatnonzero(changes)
        return edges[::2], edges[1::2] - edges[::2]
    before = np.empty_like(classes)
    before[:1] = _SEPARATOR
    before[1:] = classes[:-1]
    starts = (classes == _OWN) | ((classes == _WORD) & ((before == _SEPARATOR) | (before == _OWN_REST)))
    ends = (before != _SEPARATOR) & (starts | (classes == _SEPARATOR))
    where = np.flatnonzero(starts)
    return where, np.flatnonzero(ends) - where

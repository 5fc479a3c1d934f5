"""Encoding and decoding: decode(encode(text)) == text for every Unicode string without lone surrogates.

SentencePiece alone is not lossless: it writes a space as U+2581 and reads every U+2581 as a space. Here
U+2581 is encoded as its three bytes, and decoding concatenates the pieces' bytes itself. Text never gives a
special token's id: those are control symbols, which SentencePiece does not look for in text.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sentencepiece

from pipelines.tokenizer.model_proto import Settings, read_settings
from pipelines.tokenizer.special import SPECIAL_NAMES
from pipelines.tokenizer.words import SPACE_SYMBOL, bounded, joined_pairs, word_starts
from schemas.errors import Refused, TokenmillError

Ids = npt.NDArray[np.int32]

# Text is worked on in blocks of at most this many bytes, so that a document of any size takes bounded memory.
_BLOCK_BYTES = 1 << 22
_BLOCK_IDS = 1 << 20
# The remembered words' own bytes, with 64 for each word's place: a few times this much memory.
_CACHE_BYTES = 1 << 24
_SPACE = b" "
_REPLACEMENT = "\ufffd".encode()

_PROBES = (
    " leading, trailing ",
    "two  spaces,   three",
    "\t\ttabs\n\n\nlines\r\nCRLF\rCR\n",
    "\x00\x01\x1f\x7f\x85\xa0\u200b\u2028\ufeff",
    "\u2581 \u2581\u2581the space symbol",
    "e\u0301 \u00e9 \ufb01 \uff21 \u212b \u1100\u1161 \u0130",
    "👩‍👩‍👧‍👦🏳️‍🌈 中文字 اللغة \U0010ffff\ufdd0",
    "1234567890 ½ ²",
    "".join(name for names in SPECIAL_NAMES.values() for name in names) + "<unk><0x0A> ⁇ \ufffd\u2585",
)


class Tokenizer:
    """A SentencePiece model as a lossless codec.

    `vocab_size` counts the model's pieces and the ids appended after them for those of `begin`, `end`,
    `pad`, `fim_begin`, `fim_hole`, `fim_end` that the model lacks (in this order). `model_bytes` is the model
    as given.
    """

    def __init__(self, model_bytes: bytes):
        """Load a serialized model; raises Refused when it is none, or when it would not be lossless."""
        self.model_bytes = model_bytes
        try:
            settings = read_settings(model_bytes)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except (ValueError, RuntimeError) as error:
            raise Refused(f"the tokenizer's file is not a SentencePiece model: {error}") from error
        size = self._processor.get_piece_size() if model_bytes else 0
        if size == 0:
            raise Refused("the tokenizer's file is not a SentencePiece model: it has no pieces")
        _refuse_lossy(settings)

        ids = list(range(size))
        pieces: list[str] = self._processor.id_to_piece(ids)
        is_control: list[bool] = self._processor.is_control(ids)
        is_unknown: list[bool] = self._processor.is_unknown(ids)
        is_byte: list[bool] = self._processor.is_byte(ids)

        self._bytes: list[bytes] = []
        byte_ids: dict[int, int] = {}
        in_text: list[bytes] = []
        for i, piece in enumerate(pieces):
            if is_control[i]:
                self._bytes.append(b"")
            elif is_unknown[i]:
                self._bytes.append(_REPLACEMENT)
            elif is_byte[i]:
                value = int(piece[3:5], 16)  # <0x0A>
                byte_ids[value] = i
                self._bytes.append(bytes([value]))
            else:
                in_text.append(piece.encode().replace(SPACE_SYMBOL, _SPACE))
                self._bytes.append(in_text[-1])
        if len(byte_ids) != 256:
            raise Refused(f"the tokenizer is not lossless: it has {len(byte_ids)} of the 256 byte pieces")

        controls = {piece: i for i, piece in enumerate(pieces) if is_control[i]}
        self._names: dict[int, str] = {i: piece for piece, i in controls.items()}
        roles: dict[str, int] = {}
        for role, names in SPECIAL_NAMES.items():
            found = next((controls[name] for name in names if name in controls), None)
            if found is None:
                found = len(self._bytes)
                self._bytes.append(b"")
                self._names[found] = names[0]
            roles[role] = found
        self.begin, self.end, self.pad = roles["begin"], roles["end"], roles["pad"]
        self.fim_begin, self.fim_hole, self.fim_end = roles["fim_begin"], roles["fim_hole"], roles["fim_end"]
        self.vocab_size = len(self._bytes)

        self._joined = joined_pairs(in_text)
        self._space_symbol = np.array([byte_ids[b] for b in SPACE_SYMBOL], np.int32).tobytes()
        self._words: dict[bytes, bytes] = {}
        self._words_bytes = 0
        self._refuse_failed_probe()

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a model file; raises Refused as the constructor does, OSError when it cannot be read."""
        return cls(Path(path).read_bytes())

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return Tokenizer, (self.model_bytes,)

    def encode(self, text: str) -> Ids:
        """Return the tokens of `text`, int32 [tokens], without begin and end; see `encode_batch`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Return the tokens of each text, int32 [tokens] each, without begin and end.

        A text's tokens depend on that text alone. They are what SentencePiece gives for the parts of the text
        between its U+2581 characters, except that a word over 16 KiB is cut (see `words`). Raises
        TokenmillError for a lone surrogate, which is no character.
        """
        done: list[list[Ids]] = []
        block: list[tuple[int, bytes]] = []
        size = 0
        for i, text in enumerate(texts):
            done.append([])
            try:
                data = text.encode()
            except UnicodeEncodeError as error:
                raise TokenmillError(
                    f"text {i} holds the lone surrogate U+{ord(text[error.start]):04X} "
                    f"at character {error.start}: decode the source strictly"
                ) from error
            for piece in bounded(data, self._joined, _BLOCK_BYTES):
                if size + len(piece) > _BLOCK_BYTES:
                    self._encode_block(block, done)
                    block, size = [], 0
                block.append((i, piece))
                size += len(piece)
        self._encode_block(block, done)
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in done]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Return the text of `ids`; control ids give nothing, bytes that make no character give U+FFFD.

        Raises TokenmillError for an id outside the vocabulary.
        """
        return self._join(ids, self._bytes)

    def decode_showing_controls(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Return the text of `ids` with control ids as their names, to be read: text may spell them too."""
        table = [self._names[i].encode() if i in self._names else b for i, b in enumerate(self._bytes)]
        return self._join(ids, table)

    def _join(self, ids: Sequence[int] | npt.NDArray[np.integer], table: list[bytes]) -> str:
        array = np.asarray(ids, np.int64)
        outside = array[(array < 0) | (array >= self.vocab_size)]
        if len(outside):
            raise TokenmillError(f"token {outside[0]} is outside the vocabulary of {self.vocab_size} ids")
        parts = (
            b"".join([table[i] for i in array[start : start + _BLOCK_IDS].tolist()])
            for start in range(0, len(array), _BLOCK_IDS)
        )
        return b"".join(parts).decode("utf-8", "replace")

    def _encode_block(self, block: list[tuple[int, bytes]], done: list[list[Ids]]) -> None:
        """Encode a block's (text index, UTF-8) pieces together; append each one's ids to its text's list."""
        if not block:
            return
        starts = [word_starts(data, self._joined) for _, data in block]
        offsets = np.cumsum([0] + [len(data) for _, data in block])
        buffer = b"".join(data for _, data in block)
        bounds = np.concatenate([*(s + o for s, o in zip(starts, offsets, strict=False)), offsets[-1:]]).astype(
            np.int32
        )
        words = pa.Array.from_buffers(
            pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(buffer)]
        ).dictionary_encode()
        distinct = self._encode_words(words.dictionary.to_pylist())
        which = words.indices.to_numpy()

        # gather: the tokens of word w are distinct_ids[first[w] : first[w] + count[w]]
        distinct_ids = np.frombuffer(b"".join(distinct), np.int32)
        distinct_count = np.fromiter(map(len, distinct), np.int64, len(distinct)) // 4
        distinct_first = np.cumsum(distinct_count) - distinct_count
        count = distinct_count[which]
        ends = np.cumsum(count)
        ids = distinct_ids[np.repeat(distinct_first[which] - (ends - count), count) + np.arange(count.sum())]

        word = token = 0
        for (i, _), text_starts in zip(block, starts, strict=True):
            word += len(text_starts)
            end = int(ends[word - 1]) if word else 0
            done[i].append(ids[token:end])
            token = end

    def _encode_words(self, words: list[bytes]) -> list[bytes]:
        """Return each distinct word's ids as int32 bytes, from memory where it is known."""
        known = self._words
        new = [word for word in words if word not in known]
        new_bytes = sum(map(len, new)) + 64 * len(new)
        if self._words_bytes + new_bytes > _CACHE_BYTES:
            known, self._words_bytes = {}, 0
            new = words
            new_bytes = sum(map(len, new)) + 64 * len(new)
        self._words, self._words_bytes = known, self._words_bytes + new_bytes
        encoded: list[list[int]] = self._processor.encode(new, num_threads=1)
        count = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), np.int32, int(count.sum())).tobytes()
        ends = (np.cumsum(count) * 4).tolist()
        start = 0
        for word, end in zip(new, ends, strict=True):
            known[word] = ids[start:end]
            start = end
        known[SPACE_SYMBOL] = self._space_symbol
        return [known[word] for word in words]

    def _refuse_failed_probe(self) -> None:
        for probe in _PROBES:
            ids = self.encode(probe)
            if self.decode(ids) != probe:
                raise Refused(f"the tokenizer is not lossless: {probe!r} decodes as {self.decode(ids)!r}")


def _refuse_lossy(settings: Settings) -> None:
    failed = None
    if not settings.byte_fallback:
        failed = "it was trained without byte fallback, so unknown characters are lost"
    elif settings.normalizes:
        failed = f"it normalises text (rule {settings.normalization!r}; 'identity' is needed)"
    elif settings.adds_dummy_prefix:
        failed = "it puts a space before the text (add_dummy_prefix; false is needed)"
    elif settings.removes_extra_whitespace:
        failed = "it removes repeated spaces (remove_extra_whitespaces; false is needed)"
    if failed:
        raise Refused(f"the tokenizer is not lossless: {failed}; use another model or train one")

"""From ids to text, by the pieces of a SentencePiece model file; SentencePiece itself is not needed for that.

The codec that encodes is lossless, so a token stands for fixed bytes: a byte piece for its byte, a control symbol for
none, the unknown piece for U+FFFD, any other for its UTF-8 with U+2581 as a space. Text is the bytes of its tokens
end to end. The model file is a protocol buffer (`sentencepiece_model.proto`): field 1, repeated, is a piece, with its
text in field 1 and its type in field 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from loader.locate import MANIFEST
from loader.view import View
from schemas import manifest
from schemas.errors import Refused, TokenmillError
from schemas.manifest import StageManifest, TokenizerInfo

ROLES = ("begin", "end", "pad", "fim_begin", "fim_hole", "fim_end")
_MODEL = "tokenizer.model"
_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6  # SentencePiece.Type; the default is 1, NORMAL
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SPACE = "\u2581".encode()


class Vocabulary:
    """The pieces of a model, read when they are asked for.

    info: the view's; its reserved ids that the model has no piece for follow the model's.
    """

    def __init__(self, model: bytes, info: TokenizerInfo, origin: str):
        """Find the pieces.

        Raises:
            Refused: `model` is no model, or not the one these ids are of; names `origin`.
        """
        self._model, self._info = model, info
        self._known: dict[int, bytes] = {}
        self._roles = {getattr(info, role): role for role in ROLES}
        try:
            self._places = [(at, end) for number, at, end in _fields(model, 0, len(model)) if number == 1]
            beyond = range(len(self._places), info.vocab_size)
            fits = len(self._places) <= info.vocab_size and all(id_ in self._roles for id_ in beyond)
            fits = fits and all(self._piece(id_)[1] == _CONTROL for id_ in self._roles if id_ < len(self._places))
            if not self._places:
                raise ValueError("no pieces")
        except (IndexError, ValueError):
            raise Refused(f"{origin}: this is no SentencePiece model") from None
        if not fits:
            raise Refused(
                f"{origin}: is another tokenizer than the view's: it has {len(self._places):,} pieces, the view "
                f"{info.vocab_size:,} ids, and the reserved ids of one are no control symbols of the other"
            )

    def special(self, id_: int) -> str | None:
        """The name of a token that stands for no text: its role or, of a control symbol without one, its piece.

        None for a token that does. Raises TokenmillError for an id outside the vocabulary.
        """
        if id_ in self._roles:
            return self._roles[id_]
        self._check(id_)
        text, kind = self._piece(id_)
        return text.decode("utf-8", "replace") if kind == _CONTROL else None

    def data(self, id_: int) -> bytes:
        """The bytes a token stands for. Raises TokenmillError for an id outside the vocabulary."""
        known = self._known.get(id_)
        if known is None:
            known = self._known[id_] = self._data(id_)
        return known

    def text(self, ids: Iterable[int]) -> str:
        """The text of some tokens; U+FFFD where they begin or end inside a character."""
        return b"".join(map(self.data, ids)).decode("utf-8", "replace")

    def _data(self, id_: int) -> bytes:
        self._check(id_)
        if id_ in self._roles:
            return b""
        text, kind = self._piece(id_)
        if kind == _BYTE:
            return bytes([int(text[3:5], 16)])  # <0x0A>
        if kind == _UNKNOWN:
            return "\ufffd".encode()
        return b"" if kind == _CONTROL else text.replace(_SPACE, b" ")

    def _check(self, id_: int) -> None:
        if not 0 <= id_ < self._info.vocab_size:
            raise TokenmillError(f"token {id_} is outside the vocabulary of {self._info.vocab_size:,} ids")

    def _piece(self, id_: int) -> tuple[bytes, int]:
        """(text, type) of a piece of the model."""
        text, kind = b"", 1
        for number, at, end in _fields(self._model, *self._places[id_]):
            if number == 1:
                text = self._model[at:end]
            elif number == 3:
                kind, _ = _varint(self._model, at)
        return text, kind


def vocabulary_of(view: View, given: str | None) -> Vocabulary | None:
    """The vocabulary of a model file given by path or, without one, of the run's; None where there is no run.

    Raises:
        Refused: the file is no model, or not this view's tokenizer.
        TokenmillError: it cannot be read, or the run's is not what its manifest says.
    """
    model = model_of(view) if given is None else _read(Path(given))
    return (
        None if model is None else Vocabulary(model, view.manifest.tokenizer, given or f"{view.run}/tokenizer/{_MODEL}")
    )


def model_of(view: View) -> bytes | None:
    """The tokenizer's file of the run a view lies in; None where there is no run.

    Raises:
        Refused: it is not this view's tokenizer.
        TokenmillError: it cannot be read, or is not what its manifest says.
    """
    folder = view.run / "tokenizer" if view.run is not None else None
    if folder is None or not (folder / MANIFEST).is_file():
        return None
    whole = manifest.load(StageManifest, folder / MANIFEST)
    model = _read(folder / _MODEL)
    if whole.fingerprint != view.manifest.tokenizer.fingerprint:
        raise Refused(f"{folder}: is not the tokenizer {view.folder} was cut with; give that one with --tokenizer")
    if [hashlib.sha256(model).hexdigest()] != [file.sha256 for file in whole.files]:
        raise TokenmillError(f"{folder / _MODEL}: its sha256 is not what the manifest states")
    return model


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenmillError(f"{path}: cannot read the tokenizer: {error.strerror}") from None


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each field's value. Raises ValueError or IndexError for no protocol buffer."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _BYTES:
            size, at = _varint(data, at)
            stop = at + size
        elif kind == _VARINT:
            _, stop = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            stop = at + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if stop > end:
            raise ValueError("a field goes beyond its message")
        yield key >> 3, at, stop
        at = stop


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value < 0x80:
        return value, at
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")

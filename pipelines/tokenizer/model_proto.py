"""Just enough of SentencePiece's model file (a protocol buffer) to read its settings and rename its pieces.

SentencePiece ships generated protobuf code that asks for a newer protobuf runtime than Apache Beam allows, so
the wire format is walked here. Field numbers are those of `sentencepiece_model.proto`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from schemas.record import varint

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_PIECES, _MODEL_TRAINER, _MODEL_NORMALIZER = 1, 2, 3
_PIECE_TEXT = 1
_TRAINER_BYTE_FALLBACK = 35
_NORMALIZER_NAME, _NORMALIZER_CHARSMAP, _NORMALIZER_PREFIX, _NORMALIZER_EXTRA_SPACES = 1, 2, 3, 4


@dataclass(frozen=True)
class Settings:
    """The settings of a model that decide whether it is lossless; absent fields have the proto's defaults."""

    byte_fallback: bool
    normalization: str
    normalizes: bool
    adds_dummy_prefix: bool
    removes_extra_whitespace: bool


def read_settings(model: bytes) -> Settings:
    """Read the settings of a serialized model; raises ValueError when the bytes are no protocol buffer."""
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, kind, value in _fields(model):
        if number == _MODEL_TRAINER and kind == _BYTES:
            trainer.update((n, v) for n, _, v in _fields(bytes(value)))
        elif number == _MODEL_NORMALIZER and kind == _BYTES:
            normalizer.update((n, v) for n, _, v in _fields(bytes(value)))
    return Settings(
        byte_fallback=bool(trainer.get(_TRAINER_BYTE_FALLBACK, 0)),
        normalization=bytes(normalizer.get(_NORMALIZER_NAME, b"")).decode("utf-8", "replace"),
        normalizes=bool(normalizer.get(_NORMALIZER_CHARSMAP, b"")),
        adds_dummy_prefix=bool(normalizer.get(_NORMALIZER_PREFIX, 1)),
        removes_extra_whitespace=bool(normalizer.get(_NORMALIZER_EXTRA_SPACES, 1)),
    )


def rename_pieces(model: bytes, rename: Callable[[str], str]) -> bytes:
    """Return the model with every piece's text mapped by `rename`; ids, scores and settings stay."""
    out = bytearray()
    for number, kind, value in _fields(model):
        if number == _MODEL_PIECES and kind == _BYTES:
            piece = bytearray()
            for n, k, v in _fields(bytes(value)):
                text = rename(bytes(v).decode()).encode() if n == _PIECE_TEXT and k == _BYTES else v
                piece += _field(n, k, text)
            out += _field(number, kind, bytes(piece))
        else:
            out += _field(number, kind, value)
    return bytes(out)


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (field number, wire type, value): an int for a varint, the raw bytes for everything else."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _read_varint(message, at)
        else:
            if kind == _BYTES:
                size, at = _read_varint(message, at)
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {kind} at byte {at}")
            if at + size > len(message):
                raise ValueError("the message ends inside a field")
            value, at = message[at : at + size], at + size
        yield number, kind, value


def _field(number: int, kind: int, value: int | bytes) -> bytes:
    head = varint(number << 3 | kind)
    if isinstance(value, int):
        return head + varint(value)
    return head + (varint(len(value)) if kind == _BYTES else b"") + value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("the message ends inside a number")
        byte = message[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise ValueError(f"a number before byte {at} is too long")

"""Text to tokens and back, with the tokenizer a model was trained with; in a folder of its own beside the weights.

The folder holds tokenizer.model, a SentencePiece model, and tokenizer_info.json, the reserved ids as a view's manifest
states them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import sentencepiece

from loader import Shards
from loader.view import View, view_of
from loader.vocabulary import Vocabulary, model_of
from schemas import manifest
from schemas.errors import Refused
from schemas.manifest import TokenizerInfo

MODEL, INFO = "tokenizer.model", "tokenizer_info.json"
_SPACE = "\u2581"


class Text:
    """The lossless codec of `docs/tokenizer.md`, for a prompt. data: a SentencePiece model, read from `origin`.

    Raises Refused if data is no model, or not the one that info is of.
    """

    def __init__(self, data: bytes, info: TokenizerInfo, origin: str) -> None:
        self.info, self._data = info, data
        self._vocabulary = Vocabulary(data, info, origin)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        self._symbol = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """That of a folder. Raises Refused if there is none."""
        try:
            data = (Path(folder) / MODEL).read_bytes()
        except OSError as error:
            raise Refused(f"{folder}: has no {MODEL} ({error.strerror}), which turns text into tokens") from None
        return cls(data, manifest.load(TokenizerInfo, Path(folder) / INFO), str(Path(folder) / MODEL))

    def cut(self, shards: Shards) -> bool:
        """Whether a view was cut with it, as far as what is on this machine says: runs that were given one model state
        different fingerprints of it.
        """
        if self.info == shards.tokenizer:
            return True
        other = text_of(shards)
        same_ids = self.info.model_copy(update={"fingerprint": shards.tokenizer.fingerprint}) == shards.tokenizer
        return other is not None and same_ids and self._data == other._data

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without begin and end."""
        # SentencePiece writes a space as U+2581 and would read that character as one: its bytes stand for it.
        first, *rest = text.split(_SPACE)
        ids: list[int] = self._processor.encode(first)
        for part in rest:
            ids += self._symbol + self._processor.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens; special tokens stand for none."""
        return self._vocabulary.text(ids)


def text_beside(folder: str | Path) -> Text | None:
    """The tokenizer in a folder; None where there is none."""
    return Text.load(folder) if (Path(folder) / MODEL).exists() else None


def text_of(shards: Shards) -> Text | None:
    """The tokenizer of the run a view lies in; None where it lies in no run, or elsewhere than on this machine."""
    if "://" in shards.folder:
        return None
    view = view_of(Path(shards.folder), shards.manifest)
    data = model_of(view)
    return None if data is None else Text(data, shards.tokenizer, f"{view.run}/tokenizer/{MODEL}")


def same_tokenizer(one: Shards, other: Shards) -> bool:
    """Whether two views were cut with the same tokenizer; see `Text.cut`."""
    if one.tokenizer == other.tokenizer:
        return True
    text = text_of(one)
    return text is not None and text.cut(other)


def save_tokenizer(view: View, folder: str | Path) -> bool:
    """Write the tokenizer of the run a view lies in; False where it lies in none."""
    data = model_of(view)
    if data is None:
        return False
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / MODEL).write_bytes(data)
    (Path(folder) / INFO).write_bytes(manifest.dump(view.manifest.tokenizer))
    return True

"""Text to tokens and back, with the tokenizer a model was trained with; in a folder of its own beside the weights.

The folder holds tokenizer.model, a SentencePiece model, and tokenizer_info.json, the reserved ids as a view's manifest
states them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from loader.view import View
from loader.vocabulary import Vocabulary, model_of
from schemas import manifest
from schemas.errors import Refused
from schemas.manifest import TokenizerInfo

MODEL, INFO = "tokenizer.model", "tokenizer_info.json"
_SPACE = "\u2581"


class Text:
    """The lossless codec of `docs/tokenizer.md`, for a prompt. Raises Refused if there is no tokenizer in `folder`."""

    def __init__(self, folder: str | Path) -> None:
        try:
            data = (Path(folder) / MODEL).read_bytes()
        except OSError as error:
            raise Refused(f"{folder}: has no {MODEL} ({error.strerror}), which turns text into tokens") from None
        self.info = manifest.load(TokenizerInfo, Path(folder) / INFO)
        self._vocabulary = Vocabulary(data, self.info, str(Path(folder) / MODEL))
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        self._symbol = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]

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


def save_tokenizer(view: View, folder: str | Path) -> bool:
    """Write the tokenizer of the run a view lies in; False where it lies in none."""
    data = model_of(view)
    if data is None:
        return False
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / MODEL).write_bytes(data)
    (Path(folder) / INFO).write_bytes(manifest.dump(view.manifest.tokenizer))
    return True

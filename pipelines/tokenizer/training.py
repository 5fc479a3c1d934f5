"""Training a SentencePiece BPE model in memory, to the same bytes on every machine.

SentencePiece trains on "sentences", and silently skips or alters some: those over a length limit, those that
hold U+0000 or U+2585 (which it reserves), and it strips line ends and never learns a piece with a tab. So the
texts are cut here, and nothing of the sample is lost but pairs across a cut:

- A unit is a line with the run of line feeds that ends it. Pieces such as `;` + line feed or a blank line are
  learned; no piece continues into the next line, so a line's tokens depend on nothing around it.
- A line (or a run of line feeds) longer than 4096 characters is cut at every 4096th.
- U+0000, U+2581, U+2585 and the stand-ins below end a unit and are left out of it: they are encoded as bytes.
- Tab, line feed and carriage return are replaced by noncharacters for the training, and put back into the
  pieces of the finished model, so that indentation is learned like any other text.
"""

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from pipelines.tokenizer.model_proto import rename_pieces
from pipelines.tokenizer.special import SPECIAL_NAMES
from schemas.errors import TokenmillError

# A constant, not the machine's core count: SentencePiece writes it into the model.
_NUM_THREADS = 4
_UNIT_CHARACTERS = 4096
_STAND_INS = {"\t": "\ufdd0", "\n": "\ufdd1", "\r": "\ufdd2"}
_TO_STAND_INS = str.maketrans(_STAND_INS)
_FROM_STAND_INS = str.maketrans({stand_in: character for character, stand_in in _STAND_INS.items()})
_LEFT_OUT = re.compile("[\x00\u2581\u2585\ufdd0-\ufdd2]")
_UNIT = re.compile(rf"[^\n]{{1,{_UNIT_CHARACTERS}}}\n{{0,{_UNIT_CHARACTERS}}}|\n{{1,{_UNIT_CHARACTERS}}}")

_TOO_HIGH = re.compile(r"Vocabulary size too high \((\d+)\)\. Please set it to a value <= (\d+)")
_TOO_LOW = re.compile(r"Vocabulary size is smaller than required_chars\. (\d+) vs (\d+)")


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train a BPE model with `vocab_size` pieces on `texts`, in their order, and return it serialized.

    Ids: 0 unknown (never produced), 1 begin, 2 end, 3 padding, 4 to 6 FIM begin, hole and end, 7 to 262 the
    bytes, then the learned pieces. The same texts in the same order give the same bytes. An error raised by
    `texts` is passed on; a sample that cannot give `vocab_size` pieces raises TokenmillError, which names the
    nearest size that works.
    """
    begin, end, pad, *fim = (names[0] for names in SPECIAL_NAMES.values())
    model = io.BytesIO()
    source = _Units(texts)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(source),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.9995,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            normalization_rule_name="identity",
            max_sentence_length=4 * 2 * _UNIT_CHARACTERS,
            num_threads=_NUM_THREADS,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            bos_piece=begin,
            eos_piece=end,
            pad_piece=pad,
            control_symbols=fim,
            minloglevel=2,
        )
    except RuntimeError as error:
        if source.error is not None:
            raise source.error from None
        raise TokenmillError(_explain(str(error), vocab_size, source.count)) from error
    return rename_pieces(model.getvalue(), lambda piece: piece.translate(_FROM_STAND_INS))


class _Units:
    """Iterates over the training units; keeps their count, and the error SentencePiece makes a string of."""

    def __init__(self, texts: Iterable[str]):
        self._texts = texts
        self.count = 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts:
                for unit in training_units(text):
                    self.count += 1
                    yield unit
        except Exception as error:
            self.error = error
            raise


def training_units(text: str) -> Iterator[str]:
    """Yield the units SentencePiece is fed for one text, at most 8192 characters each, as described above."""
    for part in _LEFT_OUT.split(text):
        for unit in _UNIT.findall(part):
            yield unit.translate(_TO_STAND_INS)


def _explain(message: str, vocab_size: int, units: int) -> str:
    if units == 0:
        return "the tokenizer's sample is empty: give it sources with text, or a trained model"
    if found := _TOO_HIGH.search(message):
        return (
            f"the tokenizer's sample supports at most {found[2]} pieces, not vocab_size {vocab_size}: "
            f"set vocab_size to {found[2]} or less, or enlarge the sample"
        )
    if found := _TOO_LOW.search(message):
        return (
            f"vocab_size {vocab_size} is too small: bytes, special tokens and the sample's characters "
            f"need {found[2]}; set vocab_size to {found[2]} or more"
        )
    return f"the tokenizer could not be trained: {message}"

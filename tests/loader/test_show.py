"""`show` prints what the record holds, and text of unknown origin cannot pass for anything else."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.locate import locate
from loader.printable import OPEN, escaped
from loader.show import show, show_lines
from loader.slots import at_position, in_shard
from loader.view import View, open_view
from loader.vocabulary import ROLES, Vocabulary, vocabulary_of
from pipelines.tokenizer import Tokenizer
from schemas.errors import Refused, TokenmillError
from schemas.manifest import TokenizerInfo
from tests.loader.forge import edit_json, read_matrix, write_matrix
from tests.loader.truth import Truth, read_truth


@pytest.fixture(scope="module")
def truth(small_run: Path) -> Truth:
    return read_truth(small_run, 256)


@pytest.fixture(scope="module")
def opened(small_run: Path) -> View:
    return open_view(locate(str(small_run)), 256)


def test_a_vocabulary_reads_every_id_as_the_codec_does(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    specials = {getattr(tokenizer, role): role for role in ROLES}
    for id_ in range(tokenizer.vocab_size):
        assert vocabulary.text([id_]) == tokenizer.decode([id_])
        control = tokenizer.decode([id_]) == "" and tokenizer.decode_showing_controls([id_]) != ""
        assert (vocabulary.special(id_) is not None) == control
        assert vocabulary.special(id_) == specials.get(id_, vocabulary.special(id_))


@given(ids=st.lists(st.integers(0, 799), max_size=60))
def test_any_ids_read_as_the_codec_reads_them(vocabulary: Vocabulary, tokenizer: Tokenizer, ids: list[int]) -> None:
    assert vocabulary.text(ids) == tokenizer.decode(ids)


def test_reserved_ids_may_follow_the_models_own(small_run: Path, opened: View) -> None:
    model = (small_run / "tokenizer/tokenizer.model").read_bytes()
    info = opened.manifest.tokenizer
    appended = TokenizerInfo(**{**info.model_dump(), "vocab_size": info.vocab_size + 1, "fim_end": info.vocab_size})
    assert Vocabulary(model, appended, "model").special(info.vocab_size) == "fim_end"


@pytest.mark.parametrize(
    "change", [{"vocab_size": 801}, {"vocab_size": 700}, {"begin": 400}], ids=["larger", "smaller", "other roles"]
)
def test_another_tokenizer_is_refused(small_run: Path, opened: View, change: dict[str, int]) -> None:
    model = (small_run / "tokenizer/tokenizer.model").read_bytes()
    info = TokenizerInfo(**{**opened.manifest.tokenizer.model_dump(), **change})
    with pytest.raises(Refused, match=r"model: is another tokenizer"):
        Vocabulary(model, info, "model")


@pytest.mark.parametrize("data", [b"", b"no model", b"\x0a\xff", bytes(100)])
def test_what_is_no_model_is_refused(opened: View, data: bytes) -> None:
    with pytest.raises(Refused, match="thing: this is no SentencePiece model"):
        Vocabulary(data, opened.manifest.tokenizer, "thing")


def test_every_kind_of_record_is_shown_as_it_is(
    truth: Truth, opened: View, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> None:
    """Some of every shard, validation too, and the one with most documents."""
    most = max(truth.pieces, key=lambda slot: len(truth.pieces[slot]))
    assert len(truth.pieces[most]) > 1
    padded = False
    for shard, row in [*list(truth.records)[::97], *[slot for slot in truth.records if "validation" in slot[0]], most]:
        facts = show(opened, in_shard(opened, shard, row), vocabulary, ids=True)
        held = truth.records[shard, row]
        assert [tuple(span[name] for name in ("document", "start", "length", "at")) for span in facts["spans"]] == (
            truth.pieces[shard, row]
        )
        tokens = [id_ for span in facts["spans"] for id_ in span["tokens"]]
        assert tokens + [tokenizer.pad] * facts["padding"] == held.tolist()
        padded = padded or facts["padding"] > 0
        for span in facts["spans"]:
            document = truth.documents[span["document"]]
            assert (span["source"], span["of"]) == (document["source"], len(truth.tokens[span["document"]]))
            text = "".join(part.get("text", "") for part in span["parts"])
            assert text == tokenizer.decode(span["tokens"])
            specials = [part["special"] for part in span["parts"] if "special" in part]
            assert specials == [
                next(role for role in ROLES if getattr(tokenizer, role) == id_)
                for id_ in span["tokens"]
                if tokenizer.decode([id_]) == ""
            ]
            if (span["start"], span["length"]) == (0, span["of"]) and "fim_begin" not in specials:
                assert text == document["text"]
    assert padded


def test_text_stands_behind_its_bar_and_specials_are_marked(truth: Truth, opened: View, vocabulary: Vocabulary) -> None:
    slot = next(
        s for s, pieces in truth.pieces.items() if len(pieces) == 1 and pieces[0][1] == 0 and s[0] > "validation"
    )
    facts = show(opened, in_shard(opened, *slot), vocabulary)
    lines = list(show_lines(facts))
    text = [line for line in lines if line.startswith("  | ")]
    assert text[0].startswith("  | ⟦begin⟧")
    assert all(line.startswith(("validation ", "  ", "-- ")) for line in lines)
    assert "\n".join(line[4:] for line in text) == "".join(
        f"⟦{part['special']}⟧" if "special" in part else escaped(part["text"], "\n\t")
        for part in facts["spans"][0]["parts"]
    )


@given(st.text())
def test_escaped_text_can_steer_no_terminal(text: str) -> None:
    shown = escaped(text, "\n\t")
    assert OPEN not in shown
    assert all(c in "\n\t" or c.isprintable() or unicodedata.category(c) == "Zs" for c in shown)
    assert escaped(shown, "\n\t") == shown
    if all(c in "\n\t" or c.isprintable() for c in text) and OPEN not in text:
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\u202eb", "a\\x0d\\u202eb"),
        ("⟦begin⟧", "\\u27e6begin⟧"),
        ("\U000e0001", "\\U000e0001"),
        ("é 中\u3000文", "é 中\u3000文"),
    ],
)
def test_what_could_mislead_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_view_alone_is_shown_as_ids_or_with_a_given_tokenizer(small_run: Path, view: Path) -> None:
    alone = open_view(locate(str(view)))
    slot = at_position(alone, 0)
    assert vocabulary_of(alone, None) is None
    facts = show(alone, slot, None)
    first = read_matrix(view / facts["shard"])[facts["row"]]
    tokens = [id_ for span in facts["spans"] for id_ in span["tokens"]]
    assert tokens == first[: len(first) - facts["padding"]].tolist()
    assert all(span["source"] is None and span["of"] is None for span in facts["spans"])
    assert "--tokenizer" in list(show_lines(facts))[-1]
    given_one = vocabulary_of(alone, str(small_run / "tokenizer/tokenizer.model"))
    assert "parts" in show(alone, slot, given_one)["spans"][0]


def test_the_runs_tokenizer_must_be_the_views(run: Path) -> None:
    opened = open_view(locate(str(run)))
    model = run / "tokenizer/tokenizer.model"
    model.write_bytes(model.read_bytes() + b"\x12\x00")
    with pytest.raises(TokenmillError, match=r"tokenizer\.model: its sha256"):
        vocabulary_of(opened, None)
    edit_json(run / "tokenizer/manifest.json", lambda content: content.update(fingerprint="0" * 64))
    with pytest.raises(Refused, match="is not the tokenizer"):
        vocabulary_of(opened, None)


def test_damage_is_told_by_file_and_record(view: Path) -> None:
    opened = open_view(locate(str(view)))
    slot = at_position(opened, 21)
    shard = view / opened.shards[slot.shard].file.path
    data = bytearray(shard.read_bytes())
    size = len(data) // opened.shards[slot.shard].file.records
    whole = opened.tokens(slot.shard, [slot.row])
    data[slot.row * size + size // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(TokenmillError, match=rf"{shard.name}: record {slot.row} is damaged"):
        opened.tokens(slot.shard, [slot.row])
    data[slot.row * size + size // 2] ^= 1
    shard.write_bytes(data)
    assert np.array_equal(opened.tokens(slot.shard, [slot.row]), whole)
    shard.write_bytes(data[:-1])
    with pytest.raises(TokenmillError, match=rf"{shard.name}: has .* bytes"):
        opened.tokens(slot.shard, [slot.row])
    shard.write_bytes((view / opened.shards[slot.shard + 1].file.path).read_bytes())
    with pytest.raises(TokenmillError, match=rf"{shard.name}: is another shard"):
        opened.tokens(slot.shard, [slot.row])
    shard.unlink()
    with pytest.raises(TokenmillError, match=rf"{shard.name}: cannot be read"):
        opened.tokens(slot.shard, [slot.row])


def test_ids_beyond_the_vocabulary_are_told(run: Path) -> None:
    shard = run / "shards/64/train-00000-of-00072.tfrecord"
    tokens = read_matrix(shard).copy()
    tokens[0, 3] = 65000
    write_matrix(shard, tokens)
    opened = open_view(locate(str(run)))
    vocabulary = vocabulary_of(opened, None)
    with pytest.raises(TokenmillError, match="token 65000 is outside the vocabulary of 800 ids"):
        show(opened, in_shard(opened, shard.name, 0), vocabulary)

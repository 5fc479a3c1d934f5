"""`trace` leads from any position of any epoch, or a token, to the very documents and characters."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.locate import locate
from loader.slots import at_position, in_shard, in_validation, position_in_batch
from loader.trace import place_in_text, trace, trace_lines
from loader.view import View, open_view
from loader.vocabulary import Vocabulary, vocabulary_of
from pipelines.tokenizer import Tokenizer
from schemas.errors import Refused
from tests.loader.forge import edit_table
from tests.loader.truth import Truth, read_truth


@pytest.fixture(scope="module")
def truth(small_run: Path) -> Truth:
    return read_truth(small_run, 64)


@pytest.fixture(scope="module")
def opened(small_run: Path) -> View:
    return open_view(locate(str(small_run / "shards/64")))


@pytest.mark.parametrize("epoch", range(4))
def test_a_traced_record_is_the_tokens_of_its_documents(truth: Truth, opened: View, epoch: int) -> None:
    """Of every lane and group some, in each epoch; what is at the position is told by reading, too."""
    records = opened.order.records
    pad = opened.manifest.tokenizer.pad
    for position in range(epoch * records + epoch, (epoch + 1) * records, 211):
        facts = trace(opened, at_position(opened, position), None)
        assert (facts["position"], facts["epoch"]) == (position, epoch)
        held = truth.records[facts["shard"], facts["row"]]
        parts = [truth.tokens[s["document"]][s["start"] : s["start"] + s["length"]] for s in facts["spans"]]
        assert np.array_equal(held, np.concatenate([*parts, np.full(facts["padding"], pad)]))
        assert all(span["document"].startswith(facts["component"] + "/") for span in facts["spans"])
        assert facts["component"] == opened.order.names[int(opened.order.component_at(position))]


def test_an_epoch_traces_to_every_record_once(truth: Truth, opened: View) -> None:
    for epoch in range(4):
        start = epoch * opened.order.records
        slots = opened.order.locate(np.arange(start, start + opened.order.records))
        found = {(opened.shards[s].file.path, r) for s, r in zip(*(part.tolist() for part in slots), strict=True)}
        assert found == {slot for slot in truth.records if slot[0].startswith("train")}


def expected_character(tokenizer: Tokenizer, ids: np.ndarray, offset: int) -> int:
    """Characters before a token in the text, by decoding the parts that FIM cut."""
    at = {name: np.flatnonzero(ids == getattr(tokenizer, f"fim_{name}")) for name in ("begin", "hole", "end")}
    if not len(at["begin"]):
        return len(tokenizer.decode(ids[:offset]))
    begin, hole, end = (int(at[name][0]) for name in ("begin", "hole", "end"))
    prefix, middle = tokenizer.decode(ids[begin:hole]), tokenizer.decode(ids[end:])
    if offset < hole:
        return len(tokenizer.decode(ids[:offset]))
    if offset < end:
        return len(prefix) + len(middle) + len(tokenizer.decode(ids[hole:offset]))
    return len(prefix) + len(tokenizer.decode(ids[end:offset]))


def test_places_are_those_of_the_text(truth: Truth, opened: View, vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    """Some tokens of every document, FIM or not: character, line and column by decoding and counting."""
    fim = 0
    for id_, ids in truth.tokens.items():
        text = truth.documents[id_]["text"]
        fim += tokenizer.fim_hole in ids
        for offset in range(1, len(ids), 1 + len(ids) // 5):
            piece = tokenizer.decode([ids[offset]])
            if not piece or "\ufffd" in piece:
                continue
            place = place_in_text(ids, offset, text, vocabulary, opened.manifest.tokenizer)
            assert place is not None
            assert place.character == expected_character(tokenizer, ids, offset)
            assert text.startswith(piece, place.character)
            before = text[: place.character]
            assert (place.line, place.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))
            assert text.split("\n")[place.line - 1] == place.text_line
    assert 10 < fim < len(truth.tokens)


@settings(max_examples=30)
@given(text=st.text(st.sampled_from("aé中🙂\n▁ "), min_size=1, max_size=30), data=st.data())
def test_a_byte_within_a_character_has_that_characters_place(
    opened: View, vocabulary: Vocabulary, tokenizer: Tokenizer, text: str, data: st.DataObject
) -> None:
    ids = np.concatenate(([tokenizer.begin], tokenizer.encode(text), [tokenizer.end])).astype(np.int64)
    offset = data.draw(st.integers(1, len(ids) - 2))
    place = place_in_text(ids, offset, text, vocabulary, opened.manifest.tokenizer)
    assert place is not None
    at = len(b"".join(vocabulary.data(int(id_)) for id_ in ids[:offset]))
    assert len(text[: place.character].encode()) <= at < len(text[: place.character + 1].encode())


def test_no_place_is_claimed_for_another_text(opened: View, vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    ids = np.concatenate(([tokenizer.begin], tokenizer.encode("one two"), [tokenizer.end])).astype(np.int64)
    assert place_in_text(ids, 1, "one  two", vocabulary, opened.manifest.tokenizer) is None


def test_a_token_is_traced_through_its_record(truth: Truth, opened: View, vocabulary: Vocabulary) -> None:
    for position in range(5, opened.order.records, 1301):
        slot = at_position(opened, position)
        held = truth.records[opened.shards[slot.shard].file.path, slot.row]
        for at in range(0, 65, 8):
            if held[at] == opened.manifest.tokenizer.pad:
                continue
            token = trace(opened, slot, vocabulary, at)["token"]
            assert token["id"] == held[at] == truth.tokens[token["document"]][token["offset"]]
            assert token["source"] == truth.documents[token["document"]]["source"]
            assert (token["place"] is None) == (token["special"] is not None)


def test_a_step_is_the_positions_of_its_batch(opened: View) -> None:
    found = [position_in_batch(step, 24, row) for step in range(3) for row in range(24)]
    assert found == list(range(72))


def test_validation_rows_are_counted_over_shards(truth: Truth, opened: View) -> None:
    rows = [slot for slot in truth.records if slot[0].startswith("validation-code-")]
    for row in (0, len(rows) - 1):
        slot = in_validation(opened, "code", row)
        assert (opened.shards[slot.shard].file.path, slot.row) == rows[row]
        assert slot.position is None
        assert slot == in_shard(opened, *rows[row])


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda view: at_position(view, -1), "positions are counted from 0"),
        (lambda view: at_position(view, 1 << 62), "epoch 0 ends at"),
        (lambda view: position_in_batch(0, 8, 8), "its rows are 0 to 7"),
        (lambda view: position_in_batch(-1, 8, 0), "no step -1"),
        (lambda view: position_in_batch(0, 0, 0), "at least 1"),
        (lambda view: in_shard(view, "train-9", 0), "the first is train-00000-of-"),
        (lambda view: in_shard(view, view.shards[0].file.path, 10**6), "rows 0 to "),
        (lambda view: in_validation(view, "natural_language", -1), "rows 0 to "),
        (lambda view: in_validation(view, "music", 0), "components that have: code, natural_language"),
        (lambda view: trace(view, at_position(view, 0), None, 65), "a record has 65"),
        (lambda view: trace(view, at_position(view, 0), None, -1), "the first is 0"),
    ],
)
def test_refusals_say_what_would_do(opened: View, ask, says: str) -> None:
    with pytest.raises(Refused, match=says):
        ask(opened)


def test_padding_has_no_document(truth: Truth, opened: View, vocabulary: Vocabulary) -> None:
    pad = opened.manifest.tokenizer.pad
    shard, row = next(slot for slot, held in truth.records.items() if held[-1] == pad)
    with pytest.raises(Refused, match=r"token 64 is padding: this record holds \d+ tokens"):
        trace(opened, in_shard(opened, shard, row), vocabulary, 64)


def test_why_there_is_no_place_is_said(run: Path, view: Path, small_run: Path) -> None:
    alone = open_view(locate(str(view)))
    slot = at_position(alone, 0)
    assert "--tokenizer" in trace(alone, slot, None, 10)["token"]["unplaced"]
    model = str(small_run / "tokenizer/tokenizer.model")
    assert "not beside this view" in trace(alone, slot, vocabulary_of(alone, model), 10)["token"]["unplaced"]
    within = open_view(locate(str(run)))
    about = trace(within, slot, vocabulary_of(within, None), 10)["token"]
    assert about["place"] is not None
    component, unit, _ = about["document"].split("/")
    (documents,) = (run / "documents" / component).glob(f"documents-{int(unit):05d}-of-*")

    def change(rows: list) -> list:
        return [row | {"text": row["text"] + "!"} for row in rows]

    edit_table(documents, change)
    changed = trace(within, slot, vocabulary_of(within, None), 10)
    assert "do not decode to its text" in changed["token"]["unplaced"]
    assert any("no place in the text" in line for line in trace_lines(changed))

"""`find` lists every record that holds a document, no other, and says why one is in none."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loader.find import find_documents, find_lines, find_path, slots_of_unit
from loader.locate import locate
from loader.slots import at_position, in_shard
from loader.trace import trace
from loader.view import View, open_view
from schemas.errors import Refused, TokenmillError
from tests.loader.forge import edit_table
from tests.loader.truth import Truth, read_truth


@pytest.fixture(scope="module", params=[64, 256])
def opened(request: pytest.FixtureRequest, small_run: Path) -> View:
    return open_view(locate(str(small_run)), request.param)


@pytest.fixture(scope="module")
def truth(small_run: Path, opened: View) -> Truth:
    return read_truth(small_run, opened.manifest.sequence_length)


def test_every_document_is_found_where_provenance_has_it(truth: Truth, opened: View) -> None:
    held = {id_: set() for id_ in truth.documents}
    for (shard, row), pieces in truth.pieces.items():
        for document, start, length, at in pieces:
            held[document].add((shard, row, start, length, at))
    for facts in find_documents(opened, list(truth.documents)):
        id_ = facts["document"]
        found = [tuple(r[name] for name in ("shard", "row", "start", "length", "at")) for r in facts["records"]]
        assert len(found) == len(set(found))
        assert set(found) == held[id_]
        assert facts["source"] == truth.documents[id_]["source"]
        outcome = "kept" if id_ in truth.tokens else "dropped" if id_ in truth.drops else "rejected"
        assert facts["outcome"] == outcome
        covered = np.zeros(len(truth.tokens.get(id_, ())), int)
        for held_here in facts["records"]:
            if not held_here["repeat"]:
                covered[held_here["start"] : held_here["start"] + held_here["length"]] += 1
        for start, stop in facts["unused"]:
            covered[start:stop] += 1
        assert (covered == 1).all()


def test_repeats_are_numbered(truth: Truth, opened: View) -> None:
    prose = [id_ for id_ in truth.tokens if id_.startswith("natural_language/")]
    spans: dict[tuple, list[int]] = {}
    for facts in find_documents(opened, prose):
        for held in facts["records"]:
            spans.setdefault((facts["document"], held["start"]), []).append(held["repeat"])
    assert max(map(len, spans.values())) > 1
    assert all(repeats == list(range(len(repeats))) for repeats in spans.values())


def test_find_and_trace_agree(truth: Truth, opened: View) -> None:
    """Records found are traced back to the document, in every epoch; traced documents find their record."""
    order = opened.order
    for facts in find_documents(opened, list(truth.tokens)[::17]):
        for held in facts["records"][::29]:
            slot = in_shard(opened, held["shard"], held["row"])
            spans = [trace(opened, slot, None)]
            if held["position"] is not None:
                assert slot == at_position(opened, held["position"])
                positions = [int(order.position_of(slot.shard, slot.row, epoch)) for epoch in range(1, 4)]
                spans += [trace(opened, at_position(opened, position), None) for position in positions]
            for traced in spans:
                assert facts["document"] in {
                    span["document"]
                    for span in traced["spans"]
                    if (span["start"], span["length"], span["at"]) == (held["start"], held["length"], held["at"])
                }


def test_slots_of_a_unit_are_where_its_documents_are(truth: Truth, opened: View) -> None:
    units = {document.rpartition("/")[0] for document in truth.documents}
    for unit in units:
        component, number = unit.split("/")
        shards, rows, _ = slots_of_unit(opened, component, int(number))
        found = {(opened.shards[s].file.path, r) for s, r in zip(shards.tolist(), rows.tolist(), strict=True)}
        assert found == {slot for slot, pieces in truth.pieces.items() if pieces[0][0].startswith(f"{unit}/")}


def test_what_became_of_the_others(truth: Truth, opened: View) -> None:
    for id_, drop in truth.drops.items():
        (facts,) = find_documents(opened, [id_])
        assert (facts["drop"]["reason"], facts["drop"]["kept_id"]) == (drop["reason"], drop["kept_id"])
        assert facts["drop"]["kept_source"] == truth.documents[drop["kept_id"]]["source"]
        (line,) = find_lines(facts)
        assert f"dropped by dedup: {drop['reason']} of {drop['kept_id']} (" in line
    assert truth.refused
    for id_, refused in truth.refused.items():
        (facts,) = find_documents(opened, [id_])
        assert facts["rejection"]["reason"] == refused["reason"]
        assert f"rejected by tokenize: {refused['reason']}" in next(find_lines(facts))


def test_every_source_is_found(truth: Truth, opened: View) -> None:
    by_source = {row["source"]: row["id"] for row in truth.documents.values()}
    for source in [*list(by_source)[::9], next(s for s in by_source if "#" in s)]:
        (facts,) = find_path(opened, source)
        assert facts["document"] == by_source[source]
    with pytest.raises(TokenmillError, match=r"no/such\.py: is the source of no document"):
        find_path(opened, "no/such.py")


def test_a_source_is_found_exactly_before_the_end_of_one(run: Path) -> None:
    """With sources as trees and archives give them; no input of the plan fits those of the archive."""
    names = ["a/x/mod.py", "b/x/mod.py", "mod.py", "code.tar#c/only.py", "twice.py", "twice.py", "d/xmod.py"]
    (documents,) = (run / "documents/code").glob("documents-00002-*")

    def rename(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"source": names[i] if i < len(names) else row["source"]} for i, row in enumerate(rows)]

    edit_table(documents, rename)
    opened = open_view(locate(str(run)))

    def found(path: str) -> list[str]:
        return [facts["document"] for facts in find_path(opened, path)]

    assert found("mod.py") == ["code/2/2"]
    assert found("a/x/mod.py") == ["code/2/0"]
    assert found("only.py") == found("c/only.py") == found("code.tar#c/only.py") == ["code/2/3"]
    assert found("twice.py") == ["code/2/4", "code/2/5"]
    with pytest.raises(TokenmillError, match=r"x/mod\.py: fits several sources: a/x/mod\.py, b/x/mod\.py; give more"):
        found("x/mod.py")
    (run / "plan/units.parquet").unlink()
    assert found("twice.py") == ["code/2/4", "code/2/5"]


def test_row_groups_of_provenance_make_no_difference(view: Path) -> None:
    """Records whose pieces are in two row groups, or alone in one, are as before."""
    opened = open_view(locate(str(view)))
    tables = [pq.read_table(view / shard.provenance) for shard in opened.shards]
    number = max(range(len(tables)), key=lambda k: tables[k].num_rows - opened.shards[k].file.records)
    path, table = view / opened.shards[number].provenance, tables[number]
    rows = range(opened.shards[number].file.records)
    spans = [opened.spans(number, row) for row in rows]
    documents = pa.array(sorted(set(table["document"].to_pylist())))
    pieces = opened.pieces_of(number, documents)
    assert max(map(len, spans)) > 1
    for size in (1, 2, 3):
        pq.write_table(table, path, row_group_size=size)
        assert [opened.spans(number, row) for row in rows] == spans
        assert opened.pieces_of(number, documents) == pieces


def test_what_ingest_rejected_is_found_by_source(truth: Truth, opened: View) -> None:
    for row in truth.rejected:
        found = find_path(opened, row["source"])
        (facts,) = [facts for facts in found if facts["document"] is None]
        assert (facts["outcome"], facts["rejection"]["reason"]) == ("rejected", row["reason"])
        assert f"rejected by ingest: {row['reason']}" in next(find_lines(facts))
    assert truth.rejected


def test_a_view_alone_knows_its_own_documents_only(truth: Truth, view: Path) -> None:
    alone = open_view(locate(str(view)))
    kept, dropped = next(iter(truth.tokens)), next(iter(truth.drops))
    there, gone = find_documents(alone, [kept, dropped])
    assert there["outcome"] == "kept"
    assert there["source"] is None
    assert gone["outcome"] == "unknown"
    assert next(find_lines(gone)) == f"{dropped}: in no record of this view"
    with pytest.raises(Refused, match="give --document ID"):
        find_path(alone, "a.py")


@pytest.mark.parametrize(
    ("document", "says"),
    [("code", "ids are COMPONENT/UNIT/ROW"), ("music/0/0", "of code, natural_language"), ("code/99/0", "8 units")],
)
def test_ids_that_cannot_be_are_refused(opened: View, document: str, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        find_documents(opened, [document])


def test_a_row_beyond_its_unit_is_no_document(opened: View) -> None:
    with pytest.raises(TokenmillError, match="code/0/9999: there is no such document"):
        find_documents(opened, ["code/0/9999"])

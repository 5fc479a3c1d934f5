"""explain against real runs: what it says is what the outputs hold, and nothing is left unexplained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.explain import Account, Container, Document, explain, run_explain
from pipelines.explain.fates import Fates, with_views
from pipelines.explain.find import find
from pipelines.jobs import Run
from pipelines.run import read_config
from schemas.errors import Refused, TokenmillError
from schemas.manifest import ShardManifest, StageManifest, load
from schemas.record import decode_example, read_records
from tests.conftest import ROOT

LIBRARY = Path(sysconfig.get_path("stdlib"))
VIEWS = (64, 256)


@pytest.fixture(scope="module")
def archive_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to tokenize: a tree, a tar archive with one name twice, JSONL over two units, a too short document."""
    folder = tmp_path_factory.mktemp("archive_run")
    corpus = folder / "corpus"
    for name, text in (("a/bisect.py", (LIBRARY / "bisect.py").read_text()), ("b/bisect.py", "x = 1\n")):
        path = corpus / "tree" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with tarfile.open(corpus / "src.tar", "w") as archive:
        for source, name in (("cmd", "cmd"), ("code", "code"), ("this", "cmd")):
            archive.add(LIBRARY / f"{source}.py", f"pkg/{name}.py")
    texts = [(LIBRARY / f"{name}.py").read_text() for name in ("csv", "dis", "bdb")]
    (corpus / "prose.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    code = [{"path": f"{corpus}/tree", "format": "files"}, {"path": f"{corpus}/src.tar", "format": "tar"}]
    config = {
        "components": {
            "code": {"weight": 0.5, "sources": code},
            "prose": {"weight": 0.5, "sources": [{"path": f"{corpus}/prose.jsonl", "format": "jsonl"}]},
        },
        "quality": {"rules": False},
        "ingest": {"unit_bytes": 30_000},
        "tokenizer": {"vocab_size": 400, "sample_characters": 10_000},
        "shard": {"sequence_lengths": [64], "lanes": 2},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pipelines", "run", f"{folder}/config.yaml", "--output", f"{folder}/run"]
    command += ["--stages", "ingest,dedup,tokenizer,tokenize", "--direct_num_workers=1"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "run"


def the_document(accounts: list[Account]) -> Document:
    assert len(accounts) == 1
    assert isinstance(accounts[0], Document)
    return accounts[0]


def the_container(accounts: list[Account]) -> Container:
    assert len(accounts) == 1
    assert isinstance(accounts[0], Container)
    return accounts[0]


def all_documents(run: Run, component: str) -> list[Document]:
    """Every document and reject of a component, without views."""
    fates = Fates(run, component)
    assert fates.units is not None
    found: list[Document] = []
    for unit in range(fates.units):
        found += fates.of_sources(unit, lambda column: np.ones(len(column), bool)) or []
    return found


def test_every_record_holds_the_tokens_it_is_said_to(small_run: Path) -> None:
    for id_ in ("code/0/0", "natural_language/0/0"):
        document = the_document(explain(str(small_run), id_))
        name = f"tokens/{document.component}/tokens-00000-of-*.parquet"
        table = pq.read_table(next(small_run.glob(name)))
        tokens = np.array(table["tokens"][table["id"].to_pylist().index(id_)].as_py())
        assert document.fate == "kept"
        assert document.tokens == len(tokens)
        assert [view.sequence_length for view in document.views] == list(VIEWS)
        for view in document.views:
            manifest = load(ShardManifest, small_run / f"shards/{view.sequence_length}/manifest.json")
            assert view.records
            for record in view.records:
                with (small_run / f"shards/{view.sequence_length}" / record.shard).open("rb") as file:
                    payload = list(read_records(file))[record.row]
                held = decode_example(payload, manifest.token_dtype)
                windows = np.lib.stride_tricks.sliding_window_view(held, record.length)
                assert (windows == tokens[record.start : record.start + record.length]).all(axis=1).any()
                assert record.shard.startswith(record.split)


def test_records_repeats_and_unused_tokens_add_up_to_the_manifests(small_run: Path) -> None:
    run = Run(str(small_run), "")
    documents = all_documents(run, "code") + all_documents(run, "natural_language")
    for length in VIEWS:
        whole = load(ShardManifest, small_run / f"shards/{length}/manifest.json")
        law = whole.conservation.tokens
        views = [document.views[0] for document in with_views(run, [length], documents) if document.views]
        placed = sum(record.length for view in views for record in view.records)
        once = sum(length for view in views for _, length in {(r.start, r.length) for r in view.records})
        assert sum(stop - start for view in views for start, stop in view.unused) == law.unused > 0
        assert (once, placed - once) == (law.in_records, law.repeated)
        for view in views:
            held = Counter((record.start, record.length) for record in view.records)
            assert all(record.repeats == held[record.start, record.length] for record in view.records)


def test_every_input_document_has_one_fate_and_the_manifests_counts(small_run: Path) -> None:
    law = load(ShardManifest, small_run / "shards/64/manifest.json").conservation.documents
    run = Run(str(small_run), "")
    documents = all_documents(run, "code") + all_documents(run, "natural_language")
    expected = {f"dropped: {reason}": count for reason, count in law.dropped.items() if count}
    expected |= {f"rejected: {reason}": count for reason, count in law.rejected.items() if count}
    assert Counter(document.outcome for document in documents) == expected | {"kept": law.kept}
    assert len({document.source for document in documents}) == law.into


def test_a_container_is_counted_and_its_first_documents_listed_in_order(small_run: Path) -> None:
    container = the_container(explain(str(small_run), "prose.jsonl"))
    manifest = load(StageManifest, small_run / "documents/natural_language/manifest.json")
    assert sum(container.counts.values()) == manifest.counts["documents_in"]
    places = [int(document.source.removeprefix("prose.jsonl#")) for document in container.documents]
    lines = (small_run.parent / "corpus/prose.jsonl").read_bytes().splitlines(keepends=True)
    assert places == [0, *np.cumsum([len(line) for line in lines]).tolist()][:20]


def test_a_dropped_document_names_the_kept_one(small_run: Path) -> None:
    copies = sorted((small_run.parent / "corpus/code").glob("copy_of_*"))
    for copy in copies:
        document = the_document(explain(str(small_run), copy.name))
        assert document.drop is not None
        assert document.outcome == "dropped: exact_duplicate"
        assert document.drop.kept_source == copy.name.removeprefix("copy_of_")
        assert document.drop.jaccard == 1
        kept = the_document(explain(str(small_run), document.drop.kept_id))
        assert (kept.fate, kept.source) == ("kept", document.drop.kept_source)
    near = next(d for d in all_documents(Run(str(small_run), ""), "code") if d.outcome == "dropped: near_duplicate")
    drop = the_document(explain(str(small_run), near.source)).drop
    assert drop is not None
    assert drop.kept_source != near.source
    assert drop.kept_source.removeprefix("near_") == near.source.removeprefix("near_")
    assert 0.8 <= drop.jaccard <= 1


def test_a_document_rejected_at_ingest_tells_reason_detail_and_sample(small_run: Path) -> None:
    latin = the_document(explain(str(small_run), "latin1.py"))
    assert latin.id is None
    assert latin.rejection is not None
    assert (latin.rejection.reason, latin.stage) == ("not_utf8", "ingest")
    assert "byte 5" in latin.rejection.detail
    assert latin.rejection.sample.startswith("# caf\\xe9")
    assert the_document(explain(str(small_run), "nothing.py")).outcome == "rejected: empty"
    lines = (small_run.parent / "corpus/prose.jsonl").read_bytes().splitlines(keepends=True)
    offset = sum(map(len, lines[: lines.index(b"{broken\n")]))
    broken = the_document(explain(str(small_run), f"prose.jsonl#{offset}"))
    assert broken.rejection is not None
    assert (broken.rejection.reason, broken.rejection.offset) == ("broken_json", offset)
    assert broken.rejection.sample == "{broken"


def test_a_document_rejected_at_tokenize_tells_its_count(archive_run: Path) -> None:
    document = the_document(explain(str(archive_run), "b/bisect.py"))
    assert document.rejection is not None
    assert (document.outcome, document.stage) == ("rejected: min_tokens", "tokenize")
    assert document.rejection.detail.startswith("min_tokens: ")
    assert document.rejection.detail.endswith("at least 50")
    assert document.rejection.sample == "x = 1"
    assert document.id is not None
    assert explain(str(archive_run), document.id) == [document]


def test_any_unambiguous_end_of_a_path_finds_its_document(archive_run: Path) -> None:
    members = ("pkg/code.py", "code.py", "src.tar#pkg/code.py")
    assert {the_document(explain(str(archive_run), name)).source for name in members} == {"src.tar#pkg/code.py"}
    twice = explain(str(archive_run), "cmd.py")
    assert [account.source for account in twice] == ["src.tar#pkg/cmd.py"] * 2
    with pytest.raises(TokenmillError, match=r"a/bisect\.py, b/bisect\.py; give more"):
        explain(str(archive_run), "bisect.py")
    with pytest.raises(TokenmillError, match="not among the inputs"):
        explain(str(archive_run), "isect.py")
    run = Run(str(archive_run), "")
    config = read_config(run)
    for source in ("a/bisect.py", "b/bisect.py", "src.tar", "./prose.jsonl"):
        path = source.removeprefix("./")
        assert {target.source for target in find(run, config, path)} == {path}
        assert {account.source for account in explain(str(archive_run), source)} == {path}


def test_a_container_over_several_units_is_one_account(archive_run: Path) -> None:
    container = the_container(explain(str(archive_run), "prose.jsonl"))
    assert {document.unit for document in container.documents} == {0, 1}
    assert container.counts == {"kept": 3}
    archive = the_container(explain(str(archive_run), "src.tar"))
    assert [document.source[8:] for document in archive.documents] == ["pkg/cmd.py", "pkg/code.py", "pkg/cmd.py"]


def test_stages_that_did_not_run_are_named(archive_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copy = tmp_path / "run"
    shutil.copytree(archive_run, copy)
    document = the_document(explain(str(copy), "a/bisect.py"))
    assert document.fate == "kept"
    assert [(view.finished, view.records, view.unused) for view in document.views] == [(False, (), ())]
    for folder, stage in (("tokens", "tokenize"), ("dedup", "dedup"), ("documents", "ingest")):
        (copy / folder / "code/manifest.json").unlink()
        document = the_document(explain(str(copy), "a/bisect.py"))
        assert (document.fate, document.stage) == ("undecided", stage)
        assert run_explain(str(copy), "a/bisect.py", False) == 0
        assert f"{stage} is not finished" in capsys.readouterr().out
    with pytest.raises(TokenmillError, match="ingest of code is not finished"):
        explain(str(copy), "code/0/0")
    (copy / "plan/units.parquet").unlink()
    with pytest.raises(TokenmillError, match="not listed yet"):
        explain(str(copy), "a/bisect.py")


def test_what_is_not_there_is_said_with_what_comes_closest(archive_run: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no run here"):
        explain(str(tmp_path), "a.py")
    for what, sentence in (
        ("/elsewhere/b/bisect.py", r"nearest: b/bisect\.py, a/bisect\.py"),
        ("proze.jsonl", r"nearest: prose\.jsonl"),
        ("prose.jsonl#7", r"prose\.jsonl is an input of prose, but nothing in it"),
        ("code/99/0", "code has 2 units"),
        ("code/0/99", "unit 0 of code has 2,"),
        ("other/0/0", "not among the inputs"),
        ("", "not among the inputs"),
        ("#", "not among the inputs"),
    ):
        with pytest.raises(TokenmillError, match=sentence):
            explain(str(archive_run), what)


def test_a_missing_output_is_named_with_the_way_out(archive_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(archive_run, copy)
    for path in (copy / "dedup/code").glob("drops-00000-*"):
        path.unlink()
    with pytest.raises(TokenmillError, match=r"drops-00000-of-00002\.parquet: .*--replace-from dedup"):
        explain(str(copy), "a/bisect.py")


def test_text_is_a_few_lines_and_json_holds_everything(small_run: Path, capsys: pytest.CaptureFixture) -> None:
    for what in ("code/0/0", "prose.jsonl", "latin1.py"):
        accounts = explain(str(small_run), what)
        assert run_explain(str(small_run), what, True) == 0
        expected = json.loads(json.dumps([asdict(account) for account in accounts]))
        assert json.loads(capsys.readouterr().out) == expected
        assert run_explain(str(small_run), what, False) == 0
        text = capsys.readouterr().out
        assert text.startswith(accounts[0].source)
        assert len(text.splitlines()) <= 50
    document = the_document(explain(str(small_run), "code/0/0"))
    run_explain(str(small_run), "code/0/0", False)
    text = capsys.readouterr().out
    assert f"kept: {document.tokens:,} tokens" in text
    for view in document.views:
        first = view.records[0]
        assert f"view {view.sequence_length}: in {len(view.records)} records" in text
        assert f"tokens [{first.start}, {first.start + first.length}): {first.shard} row {first.row}" in text

"""Options of deduplication: the check against the texts, and earlier runs whose documents count as kept."""

import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loader import cli
from loader.verify.ids import of_earlier_run
from pipelines import changes, ingest, plan
from pipelines.__main__ import main
from pipelines.dedup import job, survivors, texts
from pipelines.dedup.records import member
from pipelines.explain import explain
from pipelines.explain.render import as_text
from pipelines.minhash import exact_jaccard, shingle_hashes
from pipelines.run import run
from pipelines.text_table import TextTable
from schemas.errors import Refused, TokenmillError
from tests.pipelines.tiny import config_of, contents, context_of, tiny_config, words, write_config, write_tiny

THRESHOLD = 0.8
ONE = ["--direct_num_workers=1"]


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content_for(corpus, **dedup):
    """A config over corpus/code and corpus/prose; `dedup` are its keys."""
    components = {
        name: {"weight": 0.5, "kind": "code", "sources": [{"path": str(corpus / name), "format": "files"}]}
        for name in ("code", "prose")
    }
    return {
        "components": components,
        "quality": {"rules": False},
        "ingest": {"unit_bytes": 30_000},
        "dedup": dedup,
    }


def ingest_and_dedup(content, directory):
    with context_of(config_of(content), directory) as context:
        ingest.run(context)
        job.run(context)
        (directory / "config.yaml").write_text(context.config.dump_yaml())
    shutil.rmtree(directory / ".work")
    return directory


def edited(text, edits, seed):
    """`text` with `edits` words replaced that are at least five words from each other and from the ends."""
    split = text.split()
    places = random.Random(seed).sample(range(1, len(split) // 6 - 1), edits)
    for at in places:
        split[6 * at] = f"edit{seed}x{at}"
    return " ".join(split)


def documents(directory):
    """id -> row, with source and text, of all documents."""
    paths = sorted((directory / "documents").rglob("documents-*.parquet"))
    rows = pa.concat_tables([pq.read_table(path, columns=["id", "source", "text"]) for path in paths]).to_pylist()
    return {row["id"]: row for row in rows}


def ids(directory):
    """The id of each document by its source."""
    return {row["source"]: id_ for id_, row in documents(directory).items()}


def drops(directory):
    paths = sorted((directory / "dedup").rglob("drops-*.parquet"))
    return {row["id"]: row for row in pa.concat_tables([pq.read_table(path) for path in paths]).to_pylist()}


def true_jaccard(a, b):
    shingles, offsets = shingle_hashes(TextTable.from_texts([a, b]), 5)
    return exact_jaccard(shingles[: offsets[1]], shingles[offsets[1] :])


# -- check: text ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def around_the_threshold(tmp_path_factory):
    """Pairs whose true similarity is just above or just below the threshold; in components of their own."""
    folder = tmp_path_factory.mktemp("around")
    for i in range(60):
        whole = words(i, 400)
        near = edited(whole, 8 + i % 3, i)  # 0.816, 0.796 or 0.776
        write(folder / "corpus", {f"code/{i:02d}.py": whole, f"prose/{i:02d}.txt": near[:-8]})
    return folder


def test_text_check_drops_nothing_below_the_threshold_and_stores_the_true_values(around_the_threshold, monkeypatch):
    folder = around_the_threshold
    by_signature = drops(ingest_and_dedup(content_for(folder / "corpus"), folder / "by_signature"))
    monkeypatch.setattr(texts, "HASHES", 500)  # hold one document at a time
    directory = ingest_and_dedup(content_for(folder / "corpus", check="text"), folder / "by_text")
    by_text, rows = drops(directory), documents(directory)
    true = {id_: true_jaccard(rows[id_]["text"], rows[drop["kept_id"]]["text"]) for id_, drop in by_signature.items()}
    assert sum(value < THRESHOLD for value in true.values()) >= 5
    assert by_text.keys() == {id_ for id_, value in true.items() if value >= THRESHOLD}
    assert len(by_text) >= 5
    for id_, drop in by_text.items():
        assert drop["kept_id"] == by_signature[id_]["kept_id"]
        assert drop["jaccard"] == np.float32(true[id_])
    told = [as_text(explain(str(folder / name), next(iter(by_text)))) for name in ("by_signature", "by_text")]
    assert "(estimated)" in told[0] and "(estimated)" not in told[1]


def three_alike():
    """Members 0, 1, 2 in priority order whose estimates are 0.84 (0, 1), 0.91 (0, 2) and 0.94 (1, 2)."""
    members = np.zeros(3, member(256))
    members["doc"], members["length"] = [0, 1, 2], [3, 2, 1]
    members["signature"] = np.random.default_rng(0).integers(0, 2**32, 256)
    members["signature"][1, :40] += 1
    members["signature"][2, :24] = members["signature"][1, :24]
    return members


def test_the_next_rivals_are_tried_by_estimate():
    asked = []

    def similarity(a, b):
        asked.append((a, b))
        return {(1, 0): 0.7, (2, 1): 0.79, (2, 0): 0.8}[a, b]

    found = survivors.near_duplicates(three_alike(), THRESHOLD, 32, ("length",), similarity)
    assert asked == [(1, 0), (2, 1), (2, 0)]
    assert [(drop["doc"], drop["kept"], drop["jaccard"]) for drop in found] == [(2, 0, np.float32(0.8))]


def test_the_text_is_not_asked_of_what_the_estimate_refuses():
    def similarity(a, b):
        raise AssertionError("asked")

    assert len(survivors.near_duplicates(three_alike(), 0.95, 32, ("length",), similarity)) == 0


# -- against --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run of 50 documents, one of which it dropped as a near-duplicate of another."""
    folder = tmp_path_factory.mktemp("against")
    files = {f"code/{i:02d}.py": words(i, 400) for i in range(30)}
    files |= {f"prose/{i:02d}.txt": words(100 + i, 400) for i in range(20)}
    files["prose/dropped.txt"] = edited(words(3, 400), 2, 3)[:-8]
    write(folder / "corpus", files)
    directory = ingest_and_dedup(content_for(folder / "corpus"), folder / "first")
    assert [drop["id"] for drop in drops(directory).values()] == [ids(directory)["dropped.txt"]]
    return directory


def second_corpus(folder):
    """Documents of which all named after one of the first run are in it, as they are or nearly."""
    files = {f"code/new{i:02d}.py": words(200 + i, 400) for i in range(20)}
    files |= {f"prose/new{i:02d}.txt": words(300 + i, 400) for i in range(10)}
    files |= {f"code/copy of {i:02d}.py": words(i, 400) for i in range(5)}
    files |= {f"prose/mirror of {i:02d}.py": words(i, 400) for i in range(3, 8)}  # the other component; 3 and 4 twice
    files |= {f"code/near to {i:02d}.txt": edited(words(100 + i, 400), 3, i) + " longer than that" for i in range(4)}
    files["prose/again near to 01.txt"] = files["code/near to 01.txt"]
    files["prose/near to 03.py"] = edited(words(3, 400), 2, 3)[:-8]  # what the first run dropped
    files["prose/twin of new00.py"] = words(200, 400)
    files["prose/alike new01.py"] = edited(words(201, 400), 3, 201)[:-8]
    write(folder, files)
    return folder


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    content = content_for(second_corpus(folder / "corpus"), against=[str(first)])
    return content, ingest_and_dedup(content, folder / "second")


def test_exactly_the_overlap_is_dropped_and_names_the_earlier_document(first, second):
    _, directory = second
    own, earlier, found, rows = ids(directory), ids(first), drops(directory), documents(directory)
    expected = {}
    for source, id_ in own.items():
        if source.split()[-1] in earlier:
            expected[id_] = f"first#{earlier[source.split()[-1]]}"
    named = {"twin of new00.py": own["new00.py"], "alike new01.py": own["new01.py"]}
    expected |= {own[source]: kept for source, kept in named.items()}
    assert {id_: drop["kept_id"] for id_, drop in found.items()} == expected
    texts_of = {f"first#{id_}": row["text"] for id_, row in documents(first).items()}
    texts_of |= {id_: row["text"] for id_, row in rows.items()}
    for id_, drop in found.items():
        same = texts_of[drop["kept_id"]] == texts_of[id_]
        assert drop["reason"] == ("exact_duplicate" if same else "near_duplicate")
        assert drop["jaccard"] == pytest.approx(true_jaccard(texts_of[drop["kept_id"]], texts_of[id_]), abs=0.08)
        assert of_earlier_run(drop["kept_id"]) == drop["kept_id"].startswith("first#")
    near, copy = found[own["near to 01.txt"]], found[own["again near to 01.txt"]]
    assert all(near[name] == copy[name] for name in ("kept_id", "jaccard", "reason", "cluster"))


def test_earlier_documents_get_no_drops_files_and_are_not_written_to(first, second):
    _, directory = second
    for folder, kind in (("documents", "documents"), ("dedup", "drops")):
        for name in ("code", "prose"):
            files = json.loads((directory / folder / name / "manifest.json").read_text())["files"]
            there = {file["path"] for file in files if file["path"].startswith(kind)}
            assert there == {path.name for path in (directory / folder / name).glob(f"{kind}-*")}
    units = len(list((directory / "documents").rglob("documents-*")))
    assert len(list((directory / "dedup").rglob("drops-*"))) == units
    assert not (first / ".work").exists()


@pytest.mark.parametrize("form", ["runner", "star rounds"])
def test_every_form_writes_the_same_bytes(second, tmp_path, monkeypatch, form):
    content, directory = second
    if form == "runner":
        content = content | {"shard": {"shuffle": "runner"}}
    else:
        monkeypatch.setattr(job, "SMALL_EDGES", -1)
        monkeypatch.setattr(job, "size_ranges", lambda records, record_bytes: 3)
    assert contents(ingest_and_dedup(content, tmp_path / "run")) == contents(directory)


def test_text_check_reads_the_earlier_texts(first, second, tmp_path):
    content, by_signature = second
    content = content | {"dedup": content["dedup"] | {"check": "text"}}
    directory = ingest_and_dedup(content, tmp_path / "run")
    found, rows, earlier = drops(directory), documents(directory), documents(first)
    assert found.keys() == drops(by_signature).keys()
    for id_, drop in found.items():
        name, _, kept = drop["kept_id"].rpartition("#")
        assert drop["jaccard"] == np.float32(true_jaccard(rows[id_]["text"], (earlier if name else rows)[kept]["text"]))


def test_two_earlier_runs_may_overlap(first, second, tmp_path):
    _, directory = second
    twin = tmp_path / "twin"
    shutil.copytree(first, twin)
    content = content_for(first.parent / "corpus", against=[str(twin), str(first), str(directory)])
    found = drops(ingest_and_dedup(content, tmp_path / "run"))
    kept_there = drops(first)
    assert found.keys() == documents(first).keys()
    for id_, drop in found.items():
        assert drop["kept_id"] == f"twin#{kept_there[id_]['kept_id'] if id_ in kept_there else id_}"


def test_without_the_options_a_plan_records_no_earlier_runs(first):
    assert [path.name for path in (first / "plan").iterdir()] == ["units.parquet"]


def test_dropping_the_option_leaves_no_trace_in_the_plan(first, second, tmp_path):
    content, directory = second
    shutil.copytree(directory, tmp_path / "run")
    with context_of(config_of(content | {"dedup": {}}), tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run" / "plan").iterdir()] == ["units.parquet"]


def test_an_earlier_run_may_not_change_meanwhile(first, tmp_path):
    shutil.copytree(first, tmp_path / "first")
    content = content_for(first.parent / "corpus", against=[str(tmp_path / "first")])
    with context_of(config_of(content), tmp_path / "run") as context:
        ingest.run(context)
        path = tmp_path / "first" / "dedup" / "code" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "of other drops"}))
        with pytest.raises(TokenmillError, match="was made again since this run began"):
            job.run(context)


# -- as a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A whole run of the tiny corpus, and one of half of it and of as much that is new, against the former."""
    folder = tmp_path_factory.mktemp("two")
    assert main(["run", str(write_tiny(folder / "a")), "--output", str(folder / "first"), *ONE]) == 0
    write(folder / "b", {f"code/{i:03d}.py": words(i, 200) for i in range(20, 60)})
    shutil.copy(folder / "a" / "prose.jsonl", folder / "b")
    with (folder / "b" / "prose.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": words(200 + i, 200)}) + "\n" for i in range(20))
    content = tiny_config(folder / "b") | {"dedup": {"against": [str(folder / "first")]}}
    assert main(["run", str(write_config(folder / "b.yaml", content)), "--output", str(folder / "second"), *ONE]) == 0
    return folder, content


def test_a_whole_run_is_sound_and_explained(two_runs, capsys):
    folder, _ = two_runs
    found = drops(folder / "second")
    assert len(found) == 20 + 20
    assert cli.main(["verify", str(folder / "second")]) == 0
    assert main(["explain", str(folder / "second"), "020.py"]) == 0
    kept = ids(folder / "first")["020.py"]
    assert f"exact_duplicate of first#{kept} (of an earlier run), the same text" in capsys.readouterr().out
    assert main(["explain", str(folder / "second"), "020.py", "--json"]) == 0
    (account,) = json.loads(capsys.readouterr().out)
    assert (account["drop"]["kept_id"], account["drop"]["kept_source"]) == (f"first#{kept}", "")


def test_verify_refuses_what_only_looks_like_an_earlier_id():
    assert of_earlier_run("my run#code/0/5")
    for id_ in ("code/0/5", "#code/0/5", "a#b/c/0/5", "a#code/0", "a#code/00/5", "a/b#code/0/5", "a#Code/0/5"):
        assert not of_earlier_run(id_)


def test_the_place_of_an_earlier_run_is_no_matter_but_its_content_is(two_runs, tmp_path, capsys):
    folder, content = two_runs
    shutil.copytree(folder / "second", tmp_path / "run")
    shutil.copytree(folder / "first", tmp_path / "elsewhere" / "first")

    def go(*against):
        chosen = content | {"dedup": {"against": [str(path) for path in against]}}
        return run(config_of(chosen), str(tmp_path / "run"), beam_options=ONE)

    assert not go(tmp_path / "elsewhere" / "first")  # nothing to do
    (tmp_path / "elsewhere" / "first").rename(tmp_path / "elsewhere" / "renamed")
    for against in ([], [tmp_path / "elsewhere" / "renamed"], [folder / "first", tmp_path / "elsewhere" / "renamed"]):
        with pytest.raises(Refused, match="first stage affected is dedup"):
            go(*against)
    manifest = tmp_path / "elsewhere" / "renamed" / "dedup" / "code" / "manifest.json"
    told = json.loads(manifest.read_text()) | {"fingerprint": "of other drops"}
    manifest.write_text(json.dumps(told))
    (tmp_path / "elsewhere" / "renamed").rename(tmp_path / "elsewhere" / "first")
    with pytest.raises(Refused, match=r"dedup\.against.*\nThe first stage affected is dedup"):
        go(tmp_path / "elsewhere" / "first")
    shutil.rmtree(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["status", str(tmp_path / "run")]) == 0  # it needs no earlier run
    assert "everything is done" in " ".join(capsys.readouterr().out.split())


# -- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dedup", "said"),
    [
        ({"against": ["/a/run", "/b/run/"]}, "two directories called 'run'"),
        ({"against": ["/"]}, "a run directory has a name"),
        ({"against": ["/a/run"], "enabled": False}, "while enabled is false"),
        ({"check": "texts"}, "'signature' or 'text'"),
    ],
)
def test_configs_that_are_refused(tmp_path, dedup, said):
    with pytest.raises(Refused, match=said):
        config_of(content_for(tmp_path, **dedup))


def refusal(first, tmp_path, output="run", **dedup):
    """The sentence a run against `first` ends with; nothing may be written."""
    write(tmp_path / "corpus", {"code/a.py": words(1, 100), "prose/a.txt": words(2, 100)})
    config = config_of(content_for(tmp_path / "corpus", against=[str(first)], **dedup))
    before = contents(tmp_path)
    with pytest.raises(Refused) as refused:
        run(config, str(tmp_path / output), beam_options=ONE)
    assert contents(tmp_path) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_signatures_of_another_kind_are_refused(first, tmp_path):
    assert "dedup.permutations = 256, this config has 128" in refusal(first, tmp_path, permutations=128, bands=16)
    assert "dedup.shingle = 5, this config has 6" in refusal(first, tmp_path, shingle=6)


@pytest.mark.parametrize("name", ["unicode", "datasketch"])
def test_signatures_of_another_version_are_refused(first, tmp_path, name):
    shutil.copytree(first, tmp_path / "first")
    path = tmp_path / "first" / "documents" / "prose" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"][name] = "1.0"
    path.write_text(json.dumps(manifest))
    assert f"signed under {name} 1.0" in refusal(tmp_path / "first", tmp_path)


@pytest.mark.parametrize(
    "gone", [".", "dedup/prose/manifest.json", "documents/code/manifest.json", "plan/units.parquet"]
)
def test_what_is_no_finished_run_is_refused(first, tmp_path, gone):
    shutil.copytree(first, tmp_path / "first")
    path = tmp_path / "first" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "finished up to dedup" in refusal(tmp_path / "first", tmp_path)


def test_a_run_is_not_compared_with_itself(first, tmp_path):
    shutil.copytree(first, tmp_path / "first")
    assert "give another --output" in refusal(tmp_path / "first", tmp_path, output="first")


def test_another_check_starts_at_dedup():
    assert changes.first_affected(["dedup.check"]) == "dedup"


def test_the_plan_holds_no_path_of_an_earlier_run(first, second):
    _, directory = second
    assert str(first.parent) not in (directory / plan.EARLIER).read_text()

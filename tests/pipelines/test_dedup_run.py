"""Deduplication as a stage: what a run drops, for what, and whether it is right."""

import json
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_array

from pipelines import ingest
from pipelines.dedup import job
from pipelines.minhash import exact_jaccard, shingle_hashes
from pipelines.text_table import TextTable
from schemas.manifest import StageManifest, load
from tests.pipelines.tiny import config_of, contents, context_of, words

COMPONENTS = ("code", "prose")


def ingest_and_dedup(content, directory):
    with context_of(config_of(content), directory) as context:
        ingest.run(context)
        job.run(context)
    shutil.rmtree(directory / ".work")


def documents(directory):
    """id -> row of every document, with its source path."""
    found = {}
    for name in COMPONENTS:
        for path in sorted((directory / "documents" / name).glob("documents-*.parquet")):
            rows = pq.read_table(path, columns=["id", "source", "text", "characters", "quality"]).to_pylist()
            found.update({row["id"]: row for row in rows})
    return found


def drops(directory):
    tables = [pq.read_table(path) for path in sorted((directory / "dedup").rglob("drops-*.parquet"))]
    return {row["id"]: row for row in pa.concat_tables(tables).to_pylist()}


def edited(text, every):
    """`text` with every `every`-th word replaced."""
    split = text.split()
    for i in range(every // 2, len(split), every):
        split[i] = f"edit{i}x{every}"
    return " ".join(split)


def content_for(folder, low_priority=()):
    """A config with one source a subfolder of `folder`: code/* and prose/*."""
    components = {}
    for name in COMPONENTS:
        sources = []
        for source in sorted((folder / name).iterdir()):
            jsonl = {"format": "jsonl", "quality": "score"} if source.suffix == ".jsonl" else {"format": "files"}
            sources.append({"path": str(source), "priority": -1 if source.name in low_priority else 0, **jsonl})
        components[name] = {"weight": 0.5, "kind": "code", "sources": sources}
    return {"components": components, "quality": {"rules": False}, "ingest": {"unit_bytes": 20_000}}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Documents with copies and near-copies in known places, ingested and deduplicated."""
    folder = tmp_path_factory.mktemp("planted")
    corpus = folder / "corpus"
    for i in range(40):
        write(corpus / "code" / "a" / f"{i:02d}.py", words(i, 400))
        write(corpus / "prose" / "b" / f"{i:02d}.txt", words(1000 + i, 400))
    for i in range(5):
        write(corpus / "code" / "mirror" / f"copy{i}.py", words(i, 400))  # of a lower priority
        write(corpus / "prose" / "b" / f"code{i + 10}.txt", words(i + 10, 400))  # across components
        # A long document, a shorter near-copy of it, and a copy of that near-copy in the other component.
        near = edited(words(i + 20, 400), 60)
        near = " ".join(near.split()[:-5])
        write(corpus / "prose" / "b" / f"near{i}.txt", near)
        write(corpus / "code" / "mirror" / f"near{i}.py", near)
    scored = [{"text": edited(words(5000, 300), 100 + i), "score": score} for i, score in enumerate([0.1, 0.9, None])]
    write(corpus / "prose" / "scored.jsonl", "\n".join(map(json.dumps, scored)))
    content = content_for(corpus, low_priority=("mirror",))
    directory = folder / "run"
    ingest_and_dedup(content, directory)
    return content, directory


def by_name(directory):
    """Document ids by the file names of their sources."""
    return {row["source"].rsplit("/", 1)[-1]: id_ for id_, row in documents(directory).items()}


def test_copies_keep_the_source_of_the_higher_priority(planted):
    _, directory = planted
    ids, found = by_name(directory), drops(directory)
    for i in range(5):
        drop = found[ids[f"copy{i}.py"]]
        assert (drop["reason"], drop["kept_id"], drop["jaccard"]) == ("exact_duplicate", ids[f"{i:02d}.py"], 1.0)


def test_copies_are_found_across_components(planted):
    _, directory = planted
    ids, found = by_name(directory), drops(directory)
    for i in range(10, 15):
        drop = found[ids[f"code{i}.txt"]]
        assert (drop["reason"], drop["kept_id"]) == ("exact_duplicate", ids[f"{i:02d}.py"])
        assert drop["kept_id"].startswith("code/")


def test_copies_of_a_dropped_document_point_to_the_kept_one(planted):
    _, directory = planted
    ids, found, texts = by_name(directory), drops(directory), documents(directory)
    for i in range(5):
        near, copy = found[ids[f"near{i}.txt"]], found[ids[f"near{i}.py"]]
        kept = ids[f"{20 + i:02d}.py"]
        assert near["kept_id"] == copy["kept_id"] == kept and kept not in found
        assert near["reason"] == copy["reason"] == "near_duplicate"
        assert near["jaccard"] == copy["jaccard"] < 1
        exact = jaccard_of(texts[kept]["text"], texts[ids[f"near{i}.txt"]]["text"])
        assert exact == pytest.approx(near["jaccard"], abs=0.1)


def jaccard_of(a, b):
    shingles, offsets = shingle_hashes(TextTable.from_texts([a, b]), 5)
    return exact_jaccard(shingles[: offsets[1]], shingles[offsets[1] :])


def test_the_higher_quality_is_kept_and_a_missing_one_is_the_lowest(planted):
    _, directory = planted
    found = drops(directory)
    scored = {row["quality"]: id_ for id_, row in documents(directory).items() if "scored" in row["source"]}
    assert scored[0.9] not in found
    assert found[scored[0.1]]["kept_id"] == scored[0.9]
    assert found[scored[None]]["kept_id"] == scored[0.9]


def test_nothing_else_is_dropped_and_the_manifests_count_it(planted):
    _, directory = planted
    found = drops(directory)
    assert len(found) == 5 + 5 + 10 + 2
    assert not {drop["kept_id"] for drop in found.values()} & found.keys()
    for name in COMPONENTS:
        whole = load(StageManifest, directory / "dedup" / name / "manifest.json")
        own = [drop for id_, drop in found.items() if id_.startswith(f"{name}/")]
        for reason in ("exact_duplicate", "near_duplicate"):
            assert whole.counts[f"dropped.{reason}"] == sum(drop["reason"] == reason for drop in own)
        assert sum(file.records for file in whole.files) == len(own)


def test_clusters_by_star_rounds_write_the_same_bytes(planted, tmp_path, monkeypatch):
    content, directory = planted
    shutil.copytree(directory, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "dedup")
    monkeypatch.setattr(job, "SMALL_EDGES", -1)
    monkeypatch.setattr(job, "size_ranges", lambda records, record_bytes: 3)  # several workers' parts
    taken = []
    star_rounds = job.Steps.rounds
    monkeypatch.setattr(job.Steps, "rounds", lambda self, *about: taken.append(about) or star_rounds(self, *about))
    ingest_and_dedup(content, tmp_path / "run")
    assert len(taken) >= 2, "the shortcut was taken"
    assert contents(tmp_path / "run") == contents(directory)


def test_switched_off_it_drops_nothing(planted, tmp_path):
    content, _ = planted
    ingest_and_dedup(content | {"dedup": {"enabled": False}}, tmp_path / "run")
    assert drops(tmp_path / "run") == {}


# -- against the truth ----------------------------------------------------------------------------------------------


def all_pairs(texts):
    """Exact Jaccard similarities [n, n] of the texts' sets of shingles."""
    shingles, offsets = shingle_hashes(TextTable.from_texts(texts), 5)
    columns = np.unique(shingles, return_inverse=True)[1]
    matrix = csr_array((np.ones(len(shingles)), columns, offsets.copy()), shape=(len(texts), columns.max() + 1))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    common = (matrix @ matrix.T).toarray()
    sizes = common.diagonal()
    jaccard = common / (sizes[:, None] + sizes[None, :] - common)
    for i, j in [(0, 1), (3, len(texts) - 1), *np.argwhere(np.triu(jaccard, 1) > 0.5)[:20].tolist()]:
        expected = exact_jaccard(*(shingles[offsets[d] : offsets[d + 1]] for d in (i, j)))
        assert jaccard[i, j] == pytest.approx(expected)
    return jaccard


@pytest.fixture(scope="module")
def edited_library(tmp_path_factory):
    """Library sources with near-copies edited at many rates; their texts, similarities, and drops by index."""
    folder = tmp_path_factory.mktemp("library")
    library = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(library.rglob("*.py")) if 2_000 < path.stat().st_size < 12_000]
    chosen = [path for path in paths if "site-packages" not in path.parts][:200]
    for i, path in enumerate(chosen):
        text = path.read_text(encoding="utf-8", errors="ignore")
        write(folder / "corpus" / "code" / "a" / f"{i:03d}.py", text)
        for every in (400, 150, 100, 70, 50, 30, 20) if i % 2 else (250, 120, 80):
            if i % 3 == 0:
                write(folder / "corpus" / "prose" / "b" / f"{i:03d}-{every}.py", edited(text, every))
    content = content_for(folder / "corpus")
    content["ingest"]["unit_bytes"] = 400_000
    ingest_and_dedup(content, folder / "run")
    rows = documents(folder / "run")
    place = {id_: i for i, id_ in enumerate(rows)}
    found = {place[id_]: place[drop["kept_id"]] for id_, drop in drops(folder / "run").items()}
    lengths = np.array([row["characters"] for row in rows.values()])
    return all_pairs([row["text"] for row in rows.values()]), lengths, found


def test_near_copies_of_kept_documents_are_dropped(edited_library):
    jaccard, lengths, found = edited_library
    assert len(jaccard) > 400
    kept = np.array([i for i in range(len(jaccard)) if i not in found])
    rank = np.lexsort((np.arange(len(lengths)), -lengths)).argsort()
    due = [i for i in range(len(jaccard)) if (jaccard[i, kept[(rank[kept] < rank[i]) & (kept != i)]] >= 0.85).any()]
    assert len(due) > 100
    assert np.mean([i in found for i in due]) >= 0.98


def test_no_document_is_dropped_for_an_unlike_one(edited_library):
    jaccard, _, found = edited_library
    similarity = np.array([jaccard[dropped, kept] for dropped, kept in found.items()])
    assert similarity.min() >= 0.7
    assert not set(found.values()) & found.keys()
    between = np.count_nonzero((similarity >= 0.7) & (similarity < 0.85))
    assert between > 0, "no document near the threshold: the test would see no mistake there"

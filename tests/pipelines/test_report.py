"""The report: its numbers are the run's, nothing of the data becomes markup, and what is missing is said."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.cli import main
from pipelines.jobs import Run
from pipelines.report import REPORT, write_report
from pipelines.report.accounts import alarms, broken, funnel, missing, total
from pipelines.report.compare import compare
from pipelines.report.gather import Numbers, gather
from pipelines.report.markup import breakable, escape, percent, tag
from pipelines.report.page import page
from pipelines.report.values import Values, axis_for
from pipelines.run import read_config
from schemas.errors import Refused, TokenmillError
from schemas.lock import Lock
from schemas.manifest import ShardManifest, StageManifest, load
from tests.pipelines.tiny import config_of, contents, words, write_config

VOID = {"meta", "link", "br", "wbr"}
STAGES_OF = {"documents": "ingest", "dedup": "dedup", "tokens": "tokenize"}


class Page(HTMLParser):
    """What a browser makes of a page: its elements, attributes and text; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
        else:
            self.text += data
            if "td" in self._open or "th" in self._open:
                self.cells[-1][-1] += data


def numbers_of(folder: Path) -> Numbers:
    run = Run(str(folder), "")
    return gather(run, read_config(run))


def page_of(folder: Path) -> Page:
    return Page(page(numbers_of(folder), "today"))


def column(folder: Path, pattern: str, name: str) -> list[Any]:
    """A column of all Parquet files that fit a pattern."""
    files = [str(path) for path in sorted(folder.glob(pattern))]
    return list(ds.dataset(files).to_table(columns=[name])[name].to_pylist())


@pytest.fixture(scope="module")
def copied(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(small_run, tmp_path_factory.mktemp("report") / "run"))


@pytest.fixture
def cut(small_run: Path, tmp_path: Path) -> Path:
    """A copy to take parts away from."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


# -- the file ----------------------------------------------------------------------------------------------------


def test_the_command_writes_one_file_and_changes_no_other(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(copied), (copied / "run.json").read_bytes()
    assert main(["report", str(copied)]) == 0
    assert capsys.readouterr().out == f"{copied / REPORT}\n"
    assert (contents(copied), (copied / "run.json").read_bytes()) == before
    first = (copied / REPORT).read_bytes()
    assert main(["report", f"{copied}/"]) == 0
    strip = len("2026-01-01 00:00")
    at = first.index(b" UTC<") - strip
    second = (copied / REPORT).read_bytes()
    assert first[:at] + first[at + strip :] == second[:at] + second[at + strip :]


def test_a_directory_at_work_or_without_a_run_is_refused(
    cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(cut)
    lock = Lock(str(cut), "other")
    lock.acquire()
    try:
        with pytest.raises(Refused, match=r"run other .* is at work here"):
            write_report(str(cut))
    finally:
        lock.release()
    assert contents(cut) == before
    assert not (cut / REPORT).exists()
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "no run here" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_missing_output_is_named_and_the_directory_given_back(cut: Path) -> None:
    gone = sorted(cut.glob("documents/code/documents-00001-*"))[0]
    gone.unlink()
    with pytest.raises(TokenmillError, match=rf"{gone.name}: .*--replace-from ingest"):
        write_report(str(cut))
    assert not (cut / REPORT).exists()
    assert not (cut / ".lock").exists()


def test_the_page_loads_and_runs_nothing(copied: Path) -> None:
    found = page_of(copied)
    assert not found.tags.keys() & {"script", "img", "iframe", "object", "embed", "form", "base", "image", "use"}
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]
    for name, value in found.attributes:
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#") or value == "data:,"
    anchors = {value for name, value in found.attributes if name == "id"}
    assert {value[1:] for name, value in found.attributes if name == "href" and value[0] == "#"} == anchors
    assert "url(" not in found.style and "@import" not in found.style
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    policy = next(value for name, value in found.attributes if name == "content" and "default-src" in value)
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")


def test_every_table_and_picture_says_what_it_is(copied: Path) -> None:
    found = page_of(copied)
    assert found.tags["caption"] == found.tags["table"] > 10
    pictures = found.attributes.count(("role", "img"))
    assert pictures > 10
    assert pictures + found.attributes.count(("aria-hidden", "true")) >= found.tags["svg"]
    assert sum(name == "aria-label" for name, _ in found.attributes) >= pictures


# -- numbers -----------------------------------------------------------------------------------------------------


def test_the_funnel_is_the_conservation_law(small_run: Path) -> None:
    law = load(ShardManifest, small_run / "shards/64/manifest.json").conservation.documents
    numbers = numbers_of(small_run)
    funnels = [funnel(one) for one in numbers.components]
    whole = total([one for one in funnels if one is not None])
    assert (whole.found, whole.left, whole.finished) == (law.into, law.kept, True)
    removed: Counter[str] = Counter()
    for reason, _, count in whole.reasons():
        removed[reason] += count
    assert removed == {reason: count for reason, count in (law.dropped | law.rejected).items() if count}
    assert whole.removed(duplicates=True) == sum(law.dropped.values())
    assert missing(numbers) == broken(numbers) == []
    rows = page_of(small_run).cells
    assert ["found", f"{law.into:,}", "100 %", ""] in rows
    for reason in law.rejected:
        assert any(row[0] == reason for row in rows), reason


def test_measures_are_those_of_the_files(small_run: Path) -> None:
    numbers = numbers_of(small_run)
    for one in numbers.components:
        documents, manifest = f"documents/{one.name}/documents-*", one.documents
        assert manifest is not None and one.tokens is not None
        characters = column(small_run, documents, "characters")
        assert (one.measures.characters.number, one.measures.characters.total) == (len(characters), sum(characters))
        assert one.measures.characters.greatest == max(characters)
        assert one.measures.words.total == sum(column(small_run, documents, "words"))
        languages = column(small_run, documents, "language")
        assert one.measures.languages == Counter(languages)
        assert sum(one.measures.language_characters.values()) == sum(characters)
        tokens = column(small_run, f"tokens/{one.name}/tokens-*", "count")
        assert one.measures.token_rule.passed.total == sum(tokens) - 2 * len(tokens)
        assert one.measures.rules.keys() == numbers.config.rule_bounds(one.name).keys()
        for name, rule in one.measures.rules.items():
            values = [value for value in column(small_run, documents, name) if value is not None]
            assert rule.passed.number == len(values)
            assert rule.passed.total == pytest.approx(sum(values))
            assert rule.rejected.number == manifest.counts.get(f"rejected.{name}", 0)
            least, greatest = rule.bounds.min, rule.bounds.max
            if rule.rejected.number and greatest is None:
                assert rule.rejected.greatest < (least or 0)
            if rule.rejected.number and least is None:
                assert greatest is not None and rule.rejected.least > greatest
        for reason in ("min_tokens", "max_tokens"):
            stated = one.tokens.counts.get(f"rejected.{reason}", 0)
            details = column(small_run, f"tokens/{one.name}/rejected-*", "reason")
            assert details.count(reason) == stated
        both = sum(one.tokens.counts.get(f"rejected.{reason}", 0) for reason in ("min_tokens", "max_tokens"))
        assert one.measures.token_rule.rejected.number == both
    assert any(one.measures.token_rule.rejected.number for one in numbers.components)
    assert any(rule.rejected.number for one in numbers.components for rule in one.measures.rules.values())


def test_clusters_are_those_of_the_drops(small_run: Path) -> None:
    found = numbers_of(small_run).duplicates
    assert found is not None and found.pair is not None
    rows = ds.dataset([str(path) for path in sorted(small_run.glob("dedup/*/drops-*"))]).to_table().to_pylist()
    sizes = Counter(row["cluster"] for row in rows)
    assert found.sizes.number == len(sizes)
    assert found.sizes.total == len(rows)
    assert [cluster.dropped for cluster in found.largest] == sorted(sizes.values(), reverse=True)[:10]
    for cluster in found.largest:
        own = [row for row in rows if row["cluster"] == cluster.name]
        assert cluster.dropped == sizes[cluster.name]
        assert cluster.near == sum(row["reason"] == "near_duplicate" for row in own)
        assert cluster.kept_count == len({row["kept_id"] for row in own})
        for one in (*cluster.kept, *cluster.examples):
            component, unit, row = one.id.split("/")
            path = next(small_run.glob(f"documents/{component}/documents-{int(unit):05d}-*"))
            assert ds.dataset(str(path)).to_table(columns=["source"])["source"][int(row)].as_py() == one.source
    near = [row["jaccard"] for row in rows if row["reason"] == "near_duplicate"]
    assert (found.similarities.number, found.pair.jaccard) == (len(near), min(near))
    shown = page_of(small_run).text
    assert found.pair.dropped.source in shown and found.pair.kept.source in shown


def test_the_mixture_and_the_time_are_shown(small_run: Path) -> None:
    rows = page_of(small_run).cells
    for length in (64, 256):
        view = load(ShardManifest, small_run / f"shards/{length}/manifest.json")
        for part in view.order.components:
            share = percent(view.components[part.name].token_share, 1)
            assert [part.name, percent(part.requested, 1), percent(part.realised, 1), share, ""] in rows
        law = view.conservation.tokens
        assert any(row[:2] == ["padding", f"{law.padding:,}"] for row in rows)
    for stage in json.loads((small_run / "run.json").read_text())["stages"]:
        assert any(row[0] == stage and row[1].endswith("s") for row in rows)


def test_alarms_are_told_first(small_run: Path) -> None:
    numbers = numbers_of(small_run)
    told = alarms(numbers)
    for one in numbers.components:
        whole = funnel(one)
        assert whole is not None and one.drops is not None
        above = whole.removed(duplicates=False) > 0.1 * whole.found, whole.removed(duplicates=True) > 0.05 * whole.found
        for what, alarm in zip(("rejected", "duplicates"), above, strict=True):
            assert any(text.startswith(f"{one.name}: ") and what in text for text in told) is alarm
        assert set(one.drops.alarms) <= set(told)
    assert told
    shown = page_of(small_run).text
    assert all(shown.index(text) < shown.index("documents found") for text in told)


# -- unfinished runs ---------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_and_the_rest_shown(cut: Path) -> None:
    for gone, sentence in (
        ("run.json", "no run.json"),
        ("shards/64/manifest.json", "sequence length 64 is not finished"),
        ("tokens/code/manifest.json", "Tokenizing of code"),
        ("tokenizer/manifest.json", "no tokenizer"),
        ("dedup/code/manifest.json", "Deduplication of code"),
        ("documents/code/manifest.json", "Ingest of code"),
        ("tokens/natural_language/manifest.json", "Tokenizing of natural_language"),
        ("dedup/natural_language/manifest.json", "Deduplication of natural_language"),
        ("shards/256/manifest.json", "No view is finished"),
        ("documents/natural_language/manifest.json", "no document is counted yet"),
    ):
        (cut / gone).unlink()
        found = page_of(cut)
        assert sentence in found.text
        assert "python -m pipelines status DIR" in found.text
    assert "Asked for are 70 % code, 30 % natural_language" in found.text
    assert not alarms(numbers_of(cut))


def test_stages_of_different_runs_are_noticed(cut: Path) -> None:
    path = cut / "documents/code/manifest.json"
    whole = load(StageManifest, path)
    counts = whole.counts | {"documents_in": whole.counts["documents_in"] + 1}
    path.write_text(whole.model_copy(update={"fingerprint": "0" * 64, "counts": counts}).model_dump_json())
    told = " ".join(broken(numbers_of(cut)))
    assert "made from other documents" in told
    assert "do not add up" in told
    assert "another number of documents" in told


# -- hostile documents -------------------------------------------------------------------------------------------

HOSTILE = '<script>alert(1)</script></style></code><img src=x onerror="alert(2)">&amp;\u202e\u2066\x1b[31m'


def test_nothing_of_the_data_becomes_markup(tmp_path: Path) -> None:
    """Hostile paths, texts, languages and rejects, in every place a report shows."""
    folder = tmp_path / "<b>run"
    code = tmp_path / "<script>alert(3)<" / "script>"
    code.mkdir(parents=True)
    lines = [f"{HOSTILE} {line}" for line in words(1, 400).splitlines()]
    (code / '"><img src=y onerror=alert(4)>.py').write_text("\n".join(lines))
    (code / "a'><svg onload=alert(5)>.py").write_text("\n".join([*lines[:-4], *words(2, 16).splitlines()]))
    for i in range(12):
        (code / f"{i}.py").write_text(words(10 + i, 300))
    (code / f"{HOSTILE[:8]}latin.py").write_bytes(b"<script>\xe9" * 30)
    rows = [{"text": words(30 + i, 300), "language": HOSTILE} for i in range(12)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + f"\n{{{HOSTILE}\n")
    config = {
        "components": {
            "code": {"weight": 0.5, "sources": [{"path": str(tmp_path), "format": "files", "include": ["**/*.py"]}]},
            "prose": {
                "weight": 0.5,
                "kind": "code",
                "sources": [{"path": str(tmp_path / "p.jsonl"), "format": "jsonl", "metadata": ["language"]}],
                "quality": {"non_blank_lines": {"min": 5}},
            },
        },
        "quality": {"rules": False},
        "tokenizer": {"vocab_size": 320, "sample_characters": 10_000},
        "shard": {"sequence_lengths": [64], "lanes": 2},
        "validation": {"fraction": 0},
        "ingest": {"max_rejected_fraction": 0.5},
    }
    config_of(config)
    path = write_config(tmp_path / "config.yaml", config)
    assert main(["run", str(path), "--output", str(folder), "--direct_num_workers=1", "--stages", "ingest,dedup"]) == 0
    found = Page(Path(write_report(str(folder))).read_text(encoding="utf-8"))
    assert not found.tags.keys() & {"script", "img", "b"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    for shown in ("<script>alert(1)</script></style></code><img", "<script>alert(3)<", "img src=y", "a'><svg onload"):
        assert shown in found.text, shown
    assert "\\u202e" in found.text and "\\x1b" in found.text
    assert not set(found.text) & set("\u202e\u2066\x1b\0")
    numbers = numbers_of(folder)
    assert numbers.duplicates is not None and numbers.duplicates.pair is not None
    assert any(row[0].startswith("<script>") for row in found.cells)


@given(st.text())
def test_any_text_is_one_piece_of_text(text: str) -> None:
    assert Page(breakable(text)).text == Page(escape(text)).text
    found = Page(tag("p", text, title=text))
    assert found.tags == {"p": 1}
    assert found.text == found.attributes[0][1] == html.unescape(escape(text))
    assert [name for name, _ in found.attributes] == ["title"]
    if text.isprintable() or (text.isascii() and not any(ord(c) < 32 or ord(c) == 127 for c in text)):
        assert found.text == text


# -- parts -------------------------------------------------------------------------------------------------------

numbers_lists = st.lists(
    st.one_of(st.integers(0, 10**9).map(float), st.floats(0, 1e12), st.floats(0, 1)), min_size=1, max_size=60
)


@given(numbers_lists, st.integers(0, 60), st.floats(0, 1))
def test_values_count_what_they_are_given(given_: list[float], cut_at: int, share: float) -> None:
    values, parts = Values(), Values()
    values.add(np.array(given_))
    parts.add(np.array(given_[:cut_at]))
    parts.add(np.array([*given_[cut_at:], np.nan]))
    assert parts.counts == values.counts
    rounded, counts = values.rounded()
    assert int(counts.sum()) == values.number == len(given_)
    assert (values.least, values.greatest) == (min(given_), max(given_))
    exact = np.sort(np.array(given_))
    assert np.allclose(np.repeat(rounded, counts), exact, rtol=0.0051, atol=1e-9)
    at = min(max(int(np.ceil(share * len(exact) - 1e-9)) - 1, 0), len(exact) - 1)
    near = exact[max(at - 1, 0) : at + 2]
    assert any(np.isclose(values.quantile(share), near, rtol=0.0051, atol=1e-9))


@given(numbers_lists, st.lists(st.floats(0, 1e6), max_size=2))
@example([99.96875], [])  # rounds up to where a bar begins
@settings(deadline=None)
def test_every_number_has_a_place_on_its_axis(given_: list[float], bounds: list[float]) -> None:
    values = Values()
    values.add(np.array(given_))
    axis = axis_for([values], bounds)
    edges = np.array(axis.edges)
    assert 1 <= axis.bars <= 60
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= max(min(given_), 1e-9) * 1.006 and max(given_) <= edges[-1] * 1.006
    assert int(axis.heights(values).sum()) == len(given_)
    places = [axis.place(value) for value in edges]
    assert places == sorted(places)
    for _, place in axis.ticks():
        assert 0 <= place <= axis.bars
    for bound in bounds:
        assert 0 <= axis.bound_place(bound, True) <= axis.bars
        above = [value for value in given_ if value >= bound]
        if above:
            passed = Values()
            passed.add(np.array(above))
            tall = axis.heights(passed, least=bound)
            assert (len(tall), int(tall.sum())) == (axis.bars, len(above))
            first = int(np.flatnonzero(tall).min())
            assert first == axis.bars - 1 or edges[first + 1] > bound
        below = [value for value in given_ if value <= bound]
        if below:
            passed = Values()
            passed.add(np.array(below))
            tall = axis.heights(passed, greatest=bound)
            assert int(tall.sum()) == len(below)
            last = int(np.flatnonzero(tall).max())
            assert last == 0 or (edges[last] <= bound and (axis.scale == "whole" or edges[last] < bound))


def test_small_whole_numbers_have_a_bar_each() -> None:
    values = Values()
    values.add(np.array([0, 0, 1, 3, 3, 3]))
    axis = axis_for([values], [2])
    assert axis.scale == "whole"
    assert axis.heights(values).tolist() == [2, 1, 0, 3]
    assert axis.bound_place(2, upper=False) == 2
    assert axis.bound_place(2, upper=True) == 3


lines = st.lists(st.text("ab \t.<", max_size=6), max_size=14)


@given(lines, lines)
def test_a_comparison_shows_every_difference_and_invents_none(left: list[str], right: list[str]) -> None:
    texts = "\n".join(left), "\n".join(right)
    found = compare(*texts)
    assert not found.cut
    rows = [row for hunk in found.hunks for row in hunk]
    unshown = []
    for all_lines, shown in (
        (texts[0].split("\n"), [row.left for row in rows if row.left]),
        (texts[1].split("\n"), [row.right for row in rows if row.right]),
    ):
        numbers = [line.number for line in shown]
        assert numbers == sorted(set(numbers))
        for line in shown:
            assert "".join(piece for piece, _ in line.pieces) == all_lines[line.number - 1]
        unshown.append([text.split() for number, text in enumerate(all_lines, 1) if number not in numbers])
    assert unshown[0] == unshown[1]
    for row in rows:
        if row.same:
            assert row.left is not None and row.right is not None
            a, b = ("".join(piece for piece, _ in line.pieces) for line in (row.left, row.right))
            assert a.split() == b.split()


def test_a_long_comparison_is_cut() -> None:
    a, b = words(1, 80_000), words(2, 80_000)
    found = compare(a, b)
    assert found.cut
    assert sum(len(hunk) for hunk in found.hunks) <= 120
    assert compare(a, a).hunks == ()
    one_line = compare("x" * 3_000_000, "y" * 3_000_000)
    assert one_line.cut
    assert all(len("".join(text for text, _ in row.left.pieces)) < 500 for row in one_line.hunks[0] if row.left)


def test_percentages_do_not_round_something_to_nothing() -> None:
    assert percent(1, 10**7) == "< 0.01 %"
    assert percent(10**7 - 1, 10**7) == "> 99.9 %"
    assert (percent(0, 5), percent(5, 5), percent(0, 0)) == ("0 %", "100 %", "–")
    assert [percent(share, 100) for share in (87, 24.93, 4.066, 28.04)] == ["87 %", "24.9 %", "4.07 %", "28.0 %"]


def test_drops_of_an_earlier_run_are_told_by_their_id(cut: Path) -> None:
    path = next(path for path in sorted(cut.glob("dedup/code/drops-*")) if ds.dataset(str(path)).count_rows())
    table = ds.dataset(str(path)).to_table()
    foreign = pa.array(["old#code/0/5"] * table.num_rows, pa.string())
    for name in ("kept_id", "cluster"):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), foreign)
    pa.parquet.write_table(table, path)
    found = page_of(cut)
    assert "old#code/0/5 (of an earlier run)" in found.text

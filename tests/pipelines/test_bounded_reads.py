"""What grows with the corpus is read by no worker, and edges by no driver."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import documents
from pipelines.attempt import RUNNERS
from pipelines.dedup import job, records
from pipelines.documents import check_unit_file, state_files
from pipelines.jobs import Each, Run, Step, carried_out_by
from pipelines.shard.write import Mix
from schemas import manifest, storage
from schemas.errors import TokenmillError
from schemas.manifest import STAGES
from schemas.order import Order
from tests.pipelines.tiny import config_of, context_of, tiny_config, write_tiny


def carry_out(run: Run, step: Step) -> None:
    """A step in this process."""
    if isinstance(step, Each):
        for task in step.tasks:
            step.work(run, task)
        return
    held: dict[int, list[bytes]] = {}
    for source in range(step.sources):
        for destination, block in step.emit(run, source):
            held.setdefault(destination, []).append(block)
    for number in range(step.destinations):
        step.receive(run, number, iter(held.get(number, [])))


@pytest.mark.parametrize("rounds", [False, True])
def test_tasks_read_no_manifest_and_the_driver_no_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: bool
) -> None:
    write_tiny(tmp_path)
    for i in range(6):  # near-duplicates, so that there are edges and clusters
        text = (tmp_path / "code" / f"{i:03d}.py").read_text()
        (tmp_path / "code" / f"near-{i}.py").write_text(text + f"\nlast{i}\n")
    at_work = False
    by_tasks: set[str] = set()
    by_driver: set[str] = set()

    def spy(real):  # type: ignore[no-untyped-def]
        def read(path: str, *rest):  # type: ignore[no-untyped-def]
            (by_tasks if at_work else by_driver).add(path)
            return real(path, *rest)

        return read

    monkeypatch.setattr(storage, "read_bytes", spy(storage.read_bytes))
    monkeypatch.setattr(storage, "open_read", spy(storage.open_read))
    if rounds:
        monkeypatch.setattr(job, "SMALL_EDGES", -1)

    def execute(run: Run, step: Step) -> None:
        nonlocal at_work
        at_work = True
        carry_out(run, step)
        at_work = False

    with context_of(config_of(tiny_config(tmp_path)), tmp_path / "run") as context, carried_out_by(execute):
        for stage in STAGES:
            RUNNERS[stage](context)
        dropped = manifest.load(manifest.StageManifest, context.run.path("dedup", "code", "manifest.json")).counts
    assert dropped["dropped.near_duplicate"] == 6
    assert {path for path in by_tasks if path.endswith("manifest.json")} == {
        f"{tmp_path}/run/tokenizer/manifest.json"  # of constant size
    }
    assert any(path.endswith(".npy") for path in by_tasks)
    assert not [path for path in by_driver if path.endswith((".npy", ".tfrecord"))]


@given(st.lists(st.integers(0, 50), max_size=8))
def test_records_are_counted_by_the_sizes_of_files(counts: list[int]) -> None:
    def sizes(_: str) -> dict[str, int]:
        found = {}
        for number, count in enumerate(counts):
            file = io.BytesIO()
            np.save(file, np.zeros(count, records.EDGE), allow_pickle=False)
            found[f"{number:07d}.npy"] = file.tell()
        return found | {"spill-0000000": 4711, "changed-0000000": 0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "sizes_in", sizes)
        assert records.count_records(Run("nowhere", "test"), "verified", records.EDGE) == sum(counts)


@given(st.lists(st.integers(0, 99), max_size=20))
def test_a_fingerprint_of_a_list_is_that_of_its_items(items: list[int]) -> None:
    content = [{"b": item, "a": "é"} for item in items]
    assert manifest.fingerprint_of_list(iter(content)) == manifest.fingerprint(content)


@given(st.integers(1, 4), st.integers(1, 5), st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=2, max_size=2))
def test_shards_are_numbered_through(lanes: int, groups: int, rows: list[list[int]]) -> None:
    def names() -> Iterator[tuple[str, int, int]]:
        count = lanes * groups
        yield from ((f"train-{k:05d}-of-{count:05d}.tfrecord", 2, -1) for k in range(count))
        for index, (name, own) in enumerate(zip("ab", rows, strict=True)):
            for k, held in enumerate(own):
                yield f"validation-{name}-{k:05d}-of-{len(own):05d}.tfrecord", held, index

    order = Order(1, lanes, groups, 2, (1, 1), (99, 99), ("a", "b"))
    mix = Mix(order, dict(zip("ab", rows, strict=True)))
    assert [mix.shard(number) for number in range(mix.shards)] == list(names())
    with pytest.raises(IndexError):
        mix.shard(mix.shards)


def test_stated_checksums_are_found_by_unit_over_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_UNITS_A_GROUP", 2)
    write_tiny(tmp_path)
    with context_of(config_of(tiny_config(tmp_path)), tmp_path / "run") as context, carried_out_by(carry_out):
        RUNNERS["ingest"](context)
        for name in context.plan.by_component:
            state_files(context.run, "documents", name, documents.stages.need_manifest(context.run, "documents", name))
        for task, unit in enumerate(context.plan.units):
            units = len(context.plan.by_component[unit.component])
            path = context.run.path("documents", unit.component, f"documents-{unit.unit:05d}-of-{units:05d}.parquet")
            check_unit_file(context.run, task, "documents", path)
            Path(path).write_bytes(Path(path).read_bytes()[:-1] + b"?")
            with pytest.raises(TokenmillError, match="make it again with --replace-from ingest"):
                check_unit_file(context.run, task, "documents", path)

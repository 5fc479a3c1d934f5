"""Checkpoints on gs://: those on a disk, object by object; a bad network, kills between requests, damage, two runs."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from schemas import objects
from schemas.errors import Refused, TokenmillError
from schemas.lock import Lock, check_owner
from schemas.retry import Retry
from tests.emulator import BUCKET, client_of, stored, upload, wipe
from tests.pipelines.gcs.proxy import FAULTS, Proxy
from tests.trainer.checkpoint.test_cli import run
from tests.trainer.checkpoint.tiny import State, assert_holds, files_of, owned, saved, state
from trainer.checkpoint import (
    Damaged,
    Outcome,
    Retention,
    Saver,
    abandon_after,
    newest_good,
    open_step,
    records,
)
from trainer.checkpoint.compare import compare
from trainer.checkpoint.load import steps

SCALE = 100  # 1 MB


def save(place: str, step: int, arrays: State, processes: int = 1, keep: int = 100) -> list[Outcome]:
    """One save by savers of their own; the outcomes of all processes."""
    options = {"processes": processes, "run": f"run-{step}", "keep": Retention(keep)}
    savers = [Saver(place, process=p, **options) for p in range(processes)]  # type: ignore[arg-type]
    for process, saver in enumerate(savers):
        saver.save(step, owned(arrays, process, processes), {"validation_loss": 1.0 + step})
    return [outcome for saver in savers for outcome in saver.wait()]


def put(place: str, step: int, arrays: State, processes: int = 1, keep: int = 100) -> None:
    """As `save`, where it must succeed."""
    assert [outcome.error for outcome in save(place, step, arrays, processes, keep)] == [None] * processes


def prefix_of(place: str) -> str:
    return place.removeprefix(f"gs://{BUCKET}/") + "/"


def local_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_of(folder)}


def data_of(content: dict[str, bytes]) -> dict[str, bytes]:
    """All but the records, which name the save."""
    return {name: data for name, data in content.items() if not name.endswith(("-of-00002.json", "COMMIT.json"))}


def test_names_and_bytes_are_those_on_a_disk(proxy: Proxy, emulator: int, place: str, tmp_path: Path) -> None:
    saved(tmp_path, 7, state(7, SCALE), processes=2)
    put(place, 7, state(7, SCALE), processes=2)
    here, there = local_files(tmp_path), stored(emulator, prefix_of(place))
    assert here.keys() == there.keys() and data_of(here) == data_of(there)
    assert "step-00000007/process-00001-of-00002/float32/zarr.json" in there
    assert_holds(open_step(place, 7), state(7, SCALE))


def test_a_local_checkpoint_that_is_copied_there_is_one(
    proxy: Proxy, emulator: int, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `gsutil cp -r` does: plain uploads, without our metadata; a console makes empty objects for folders."""
    saved(tmp_path, 7, state(7), {"validation_loss": 2.5}, processes=2)
    upload(emulator, {prefix_of(place) + name: data for name, data in local_files(tmp_path).items()})
    folders = ("", "step-00000007/", "step-00000007/process-00000-of-00002/")
    upload(emulator, {prefix_of(place) + folder: b"" for folder in folders})
    found = newest_good(place)
    assert found.checkpoint is not None and found.checkpoint.meta == {"validation_loss": 2.5}
    assert_holds(found.checkpoint, state(7))
    assert list(compare(found.checkpoint, open_step(str(tmp_path), 7))) == []
    assert run("diff", f"{place}/step-00000007", tmp_path / "step-00000007") == 0
    # And back.
    for folder in folders:
        client_of(emulator).bucket(BUCKET).blob(prefix_of(place) + folder).delete()
    for name, data in stored(emulator, prefix_of(place)).items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(data)
    assert_holds(open_step(str(tmp_path / "back"), 7), state(7))


def test_another_number_of_processes_reads_slices_and_fetches_a_file_once(
    proxy: Proxy, place: str, tmp_path: Path
) -> None:
    whole = state(3, SCALE)
    put(place, 3, whole, processes=3)
    checkpoint = open_step(place, 3, beside=True)
    asked = proxy.count("download")
    for process in range(2):
        for piece in owned(whole, process, 2):
            begin = piece.offset[0]
            found = checkpoint.read(piece.name, (slice(begin, begin + piece.array.size),))
            assert found.tobytes() == np.ascontiguousarray(piece.array).tobytes()
    downloads = [request.name for request in proxy.requests if request.kind == "download"]
    assert len(downloads) > asked and set(Counter(name for name in downloads if "/c/" in name).values()) == {1}
    del checkpoint  # and with it what was fetched
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("tokenmill-checkpoint-*/process-*-of-00003"))


def test_one_listing_a_look(proxy: Proxy, place: str) -> None:
    for step in (1, 2, 3):
        put(place, step, state(step))
    for look in (steps, newest_good):
        proxy.requests.clear()
        look(place)
        assert proxy.count("list") == (1 if look is steps else 2)  # of the checkpoints, and of the newest one's files


def test_list_verify_prune_retention_and_leftovers(
    proxy: Proxy, emulator: int, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 20, 30):
        put(place, step, state(step))
    upload(emulator, {f"{prefix_of(place)}step-00000025/process-00000-of-00001/float32/c/0": b"of a killed save"})
    assert run("list", place) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["10", "20", "30"]
    assert lines[4].startswith("step-00000025: not committed")
    assert run("verify", place) == 0
    put(place, 40, state(40), keep=2)
    assert {name.split("/")[0] for name in stored(emulator, prefix_of(place))} == {
        *("step-00000010", "step-00000030", "step-00000040")  # the best, and the two newest
    }
    assert run("prune", f"{place}/", "--keep", 1) == 0
    assert steps(place) == [10, 40]
    with pytest.raises(Refused, match="there is no such folder"):
        run("list", f"{place}/absent")


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_network_changes_nothing(fault: str, proxy: Proxy, emulator: int, place: str) -> None:
    """It strikes every kind of request three times in a save with retention, a verification and a load."""
    put(place, 1, state(1))
    struck: Counter[str] = Counter()

    def choose(kind: str, name: str) -> str:
        struck[kind] += 1
        return fault if struck[kind] in (1, 3, 6) else ""

    proxy.choose = choose
    put(place, 2, state(2, SCALE), processes=2, keep=1)
    found = newest_good(place)
    assert found.quarantined == () and found.checkpoint is not None
    assert_holds(found.checkpoint, state(2, SCALE))
    assert min(struck[kind] for kind in ("put", "stat", "download", "list", "delete")) >= 6
    proxy.choose = lambda kind, name: ""
    # Step 1 has the least loss and stays, though one is kept. Nothing else is there, and nothing was put twice.
    assert steps(place) == [1, 2]
    done = Counter(request.name for request in proxy.requests if request.kind == "put" and request.status == 200)
    assert set(done.values()) == {1}


def test_an_absent_service_is_an_error_and_no_damage(proxy: Proxy, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, 1, state(1))
    monkeypatch.setattr(objects, "RETRY", Retry(grace=0.3, first=0.05, longest=0.1))
    saver = Saver(place)
    proxy.choose = lambda kind, name: "503"
    saver.save(2, owned(state(2)), {})  # training goes on
    (outcome,) = saver.wait()
    assert outcome.error is not None and "given up after" in str(outcome.error)
    proxy.choose = lambda kind, name: "503" if kind == "download" else ""
    with pytest.raises(TokenmillError, match="given up after"):
        newest_good(place)
    proxy.choose = lambda kind, name: ""
    found = newest_good(place)
    assert found.checkpoint is not None and found.checkpoint.step == 1 and found.quarantined == ()
    saver.save(3, owned(state(3)), {})
    assert saver.wait()[0].error is None
    assert steps(place) == [1, 3]


def before_request(number: int) -> Callable[[str, str], str]:
    """A network that ends, for good, before the number-th request."""
    left = [number]

    def choose(kind: str, name: str) -> str:
        left[0] -= 1
        return "403" if left[0] < 0 else ""

    return choose


def few(seed: int) -> State:
    """A state of few files."""
    return {"weights": state(seed)["weights"]}


def test_a_kill_before_each_request_of_a_save_and_its_retention(proxy: Proxy, emulator: int, place: str) -> None:
    """Every request from the n-th on fails for good, which leaves in the bucket what a kill there does."""
    seen = set()
    for number in range(200):
        wipe(emulator)
        put(place, 1, few(1))
        saver = Saver(place, keep=Retention(1))
        proxy.choose = before_request(number)
        saver.save(2, owned(few(2)), {"validation_loss": 0.5})
        (outcome,) = saver.wait()
        proxy.choose = lambda kind, name: ""
        found = newest_good(place)
        assert found.checkpoint is not None and not found.quarantined
        assert_holds(found.checkpoint, few(found.checkpoint.step))
        for step in steps(place):  # none is half deleted
            assert_holds(open_step(place, step), few(step))
        seen.add(found.checkpoint.step)
        if outcome.error is None:
            break
        put(place, 3, few(3), keep=1)  # whatever was left is in nobody's way
        assert_holds(open_step(place, 3), few(3))
    assert number > 20
    assert seen == {1, 2}


class FromMove:
    """As `before_request`, counted from the first request that speaks of a quarantined name."""

    def __init__(self, number: int) -> None:
        self._choose, self._begun, self.refused = before_request(number), False, False

    def __call__(self, kind: str, name: str) -> str:
        self._begun |= "quarantined" in name
        fault = self._choose(kind, name) if self._begun else ""
        self.refused |= bool(fault)
        return fault


def test_a_kill_before_each_request_of_putting_aside(proxy: Proxy, emulator: int, place: str) -> None:
    for number in range(100):
        wipe(emulator)
        put(place, 1, few(1))
        put(place, 2, few(2))
        damaged = damage(emulator, place, 2)
        proxy.choose = choose = FromMove(number)
        with contextlib.suppress(TokenmillError):
            newest_good(place)
        proxy.choose = lambda kind, name: ""
        found = newest_good(place).checkpoint
        assert found is not None and found.step == 1
        saver = Saver(place)  # removes leftovers
        there = stored(emulator, prefix_of(place))
        assert {name.split("/")[0] for name in there} == {"step-00000001", "quarantined-step-00000002"}
        assert {name: data for name, data in there.items() if name.startswith("quar")} == {
            f"quarantined-step-00000002/{name}": data for name, data in damaged.items()
        }
        saver.save(2, owned(few(20)), {})  # the step can be saved again
        assert saver.wait()[0].error is None
        assert_holds(open_step(place, 2), few(20))
        if not choose.refused:
            break
    assert 8 < number < 99


def damage(emulator: int, directory: str, step: int) -> dict[str, bytes]:
    """Alter a data file; all of the step's objects after that."""
    prefix = f"{prefix_of(directory)}step-{step:08d}/"
    name = "process-00000-of-00001/float32/c/0"
    data = bytearray(stored(emulator, prefix)[name])
    data[len(data) // 2] ^= 1
    upload(emulator, {prefix + name: bytes(data)})
    return stored(emulator, prefix)


def test_a_second_damaged_one_of_a_step_gets_a_name_of_its_own(proxy: Proxy, emulator: int, place: str) -> None:
    put(place, 1, state(1))
    for number, seed in enumerate((2, 20), 1):
        put(place, 2, state(seed))
        damage(emulator, place, 2)
        (aside,) = newest_good(place).quarantined
        assert "float32/c/0: its sha256 is not that of its manifest" in aside.reason
        assert aside.path == f"{place}/quarantined-step-00000002" + ("-2" if number == 2 else "")


def test_where_nothing_may_be_written_the_older_one_is_used(proxy: Proxy, emulator: int, place: str) -> None:
    put(place, 1, state(1))
    put(place, 2, state(2))
    damage(emulator, place, 2)
    proxy.choose = lambda kind, name: "403" if kind in ("put", "copy", "delete") else ""
    found = newest_good(place)
    assert found.checkpoint is not None and found.checkpoint.step == 1
    assert [(each.step, each.path) for each in found.quarantined] == [(2, None)]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("stranger", b"x", "stranger: does not belong there"),
        ("process-00000-of-00001/float32/c/1", b"x", "c/1: does not belong there"),
        ("process-00000-of-00001/float32/c//0", b"x", "c//0: does not belong there"),
        ("process-00000-of-00001/float32/zarr.json", b"{}", "zarr.json: has 2 bytes instead of"),
        ("process-00000-of-00001/float32/c/0", b"", "c/0: has 0 bytes instead of"),
        ("process-00000-of-00001.json", b"{}", "process-00000-of-00001.json: not a checkpoint's JSON"),
        ("COMMIT.json", b"[" * 100_000, "COMMIT.json: not a checkpoint's JSON"),
    ],
)
def test_hostile_objects_are_refused(
    name: str, data: bytes, told: str, proxy: Proxy, emulator: int, place: str
) -> None:
    put(place, 1, state(1))
    upload(emulator, {f"{prefix_of(place)}step-00000001/{name}": data})
    with pytest.raises(Damaged) as caught:
        open_step(place, 1)
    assert told in str(caught.value)


def test_a_giant_marker_is_not_downloaded(
    proxy: Proxy, emulator: int, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "COMMIT_LIMIT", 10_000)
    put(place, 1, state(1))
    upload(emulator, {f"{prefix_of(place)}step-00000001/COMMIT.json": b" " * 10_001})
    before = proxy.count("download")
    with pytest.raises(Damaged, match=r"COMMIT.json: larger than 10,000 bytes"):
        open_step(place, 1)
    assert proxy.count("download") == before


def test_an_object_that_changes_after_it_was_verified_is_not_used(proxy: Proxy, emulator: int, place: str) -> None:
    put(place, 1, state(1))
    checkpoint = open_step(place, 1)
    damage(emulator, place, 1)
    with pytest.raises(TokenmillError, match=r"float32/c/0: changed since it was verified"):
        checkpoint.read("weights")
    client_of(emulator).bucket(BUCKET).blob(f"{prefix_of(place)}step-00000001/process-00000-of-00001/bool/c/0").delete()
    with pytest.raises(TokenmillError, match=r"bool/c/0: changed since it was verified"):
        checkpoint.read("flags")


def test_a_run_that_goes_back(proxy: Proxy, emulator: int, place: str) -> None:
    for step in (1, 2, 3):
        put(place, step, state(step))
    assert abandon_after(place, 1) == [f"{place}/step-00000003", f"{place}/step-00000002"]
    assert steps(place) == [1]
    saver = Saver(place, process=0)
    for step in (2, 3):  # over what is left of the old ones
        saver.save(step, owned(state(10 * step)), {})
        assert saver.wait()[0].error is None
        assert_holds(open_step(place, step), state(10 * step))


def test_a_committed_step_is_left_alone(proxy: Proxy, emulator: int, place: str) -> None:
    put(place, 1, state(1))
    before = stored(emulator, prefix_of(place))
    (outcome,) = save(place, 1, state(2))
    assert isinstance(outcome.error, Refused) and "it is not overwritten" in str(outcome.error)
    assert stored(emulator, prefix_of(place)) == before


def test_of_two_savers_that_commit_at_once_one_fails(proxy: Proxy, emulator: int, place: str) -> None:
    """As two runs would, were the lock not there: the second marker is refused by the server, not written over."""

    def choose(kind: str, name: str) -> str:
        if kind == "put" and name.endswith("COMMIT.json") and not stored(emulator, name):
            upload(emulator, {name: b"another's"})
        return ""

    proxy.choose = choose
    (outcome,) = save(place, 1, state(1))
    assert outcome.error is not None and "COMMIT.json: is there already, written by another" in str(outcome.error)
    assert stored(emulator, f"{prefix_of(place)}step-00000001/COMMIT.json")[""] == b"another's"


def test_a_run_that_lost_the_folder_commits_nothing(proxy: Proxy, place: str) -> None:
    lock = Lock(place, "new")
    lock.acquire()
    saver = Saver(place, guard=lambda: check_owner(place, "old"))
    saver.save(1, owned(state(1)), {})
    (outcome,) = saver.wait()
    assert outcome.error is not None and "run old no longer owns this directory" in str(outcome.error)
    assert steps(place) == []
    lock.release()

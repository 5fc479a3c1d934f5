"""Steps, exchanges, the lock, and the way a file becomes final."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.jobs import Each, Exchange, Run, run_steps
from pipelines.runner import check_options, runner_and_options
from pipelines.stages import Receipt, read_receipts, receipt_path, unfinished, write_receipt
from schemas import lock, storage
from schemas.errors import Refused, TokenmillError
from schemas.lock import Lock
from schemas.manifest import Unit

ONE = ["--direct_num_workers=1"]
SOURCES, DESTINATIONS = 7, 5


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run that owns its directory."""
    made = Run(str(tmp_path / "run"), "mine")
    owner = Lock(made.directory, made.run_id)
    owner.acquire()
    yield made
    owner.release()


def block(source: int, destination: int) -> bytes:
    """What a source sends to a destination: nothing to some, no bytes to others, and much to one."""
    generator = np.random.default_rng([source, destination])
    if (source + 2 * destination) % 4 == 0 or destination == 3:
        return b""
    return generator.bytes(200_000 if source == destination else 1 + source)


@dataclass(frozen=True)
class Sender:
    """Sends the blocks; leaves out every second empty one and sends the others as no bytes."""

    def __call__(self, run: Run, source: int) -> Iterator[tuple[int, bytes]]:
        for destination in range(DESTINATIONS):
            data = block(source, destination)
            if data or destination % 2:
                yield destination, data


@dataclass(frozen=True)
class Receiver:
    """Writes down what came, block by block, and that it came at all."""

    def __call__(self, run: Run, destination: int, blocks: Iterable[bytes]) -> None:
        came = json.dumps([part.hex() for part in blocks])
        run.commit_bytes(Done()(run, destination), came.encode())


@dataclass(frozen=True)
class Done:
    def __call__(self, run: Run, destination: int) -> str:
        return run.path("out", f"{destination}.json")


def exchange(mode: str, emit: Sender | None = None) -> Exchange:
    return Exchange("move", SOURCES, DESTINATIONS, emit or Sender(), Receiver(), "move-1", Done(), mode)


@pytest.mark.parametrize("mode", ["files", "runner"])
def test_an_exchange_moves_every_block_in_source_order(run, mode):
    run_steps(run, [exchange(mode)], ONE, True)
    for destination in range(DESTINATIONS):
        came = [bytes.fromhex(part) for part in json.loads(Path(Done()(run, destination)).read_text())]
        expected = [block(source, destination) for source in range(SOURCES)]
        assert came == [part for part in expected if part]
    assert json.loads(Path(Done()(run, 3)).read_text()) == []  # a destination of nothing is called too
    assert any(len(block(source, source)) == 200_000 for source in range(DESTINATIONS))


@dataclass(frozen=True)
class Count:
    """Notes each call in a file of its own, and fails at one task if told to."""

    fail_at: int = -1

    def __call__(self, run: Run, task: int) -> None:
        path = run.path(f"calls-{task}")
        calls = int(Path(path).read_text()) if os.path.exists(path) else 0
        if task == self.fail_at:
            raise TokenmillError(f"task {task}: this one fails")
        run.commit_bytes(path, str(calls + 1).encode())


def test_a_step_begins_when_the_one_before_is_complete(run):
    @dataclass(frozen=True)
    class Check:
        def __call__(self, run: Run, task: int) -> None:
            there = storage.names_in(run.path())
            run.commit_bytes(run.path(f"saw-{task}"), str(sum(n.startswith("calls-") for n in there)).encode())

    tasks = range(1027)
    run_steps(run, [Each("first", tasks[::40], Count()), Each("second", [0, 1], Check())], ONE, True)
    assert [Path(run.path(f"saw-{task}")).read_text() for task in (0, 1)] == [str(len(tasks[::40]))] * 2


def test_every_task_runs_once(run):
    run_steps(run, [Each("count", [*range(3, 14)], Count())], ONE, True)
    assert {name for name in storage.names_in(run.path()) if name.startswith("calls-")} == {
        f"calls-{task}" for task in range(3, 14)
    }
    assert {Path(run.path(f"calls-{task}")).read_text() for task in range(3, 14)} == {"1"}


def test_a_step_without_tasks_does_not_stop_the_next(run):
    run_steps(run, [Each("none", [], Count()), Each("one", [1], Count())], ONE, True)
    assert storage.names_in(run.path()) >= {"calls-1"}


@pytest.mark.parametrize("mode", ["files", "runner"])
def test_a_finished_destination_is_not_made_again(run, mode):
    for destination in (1, 4):
        run.commit_bytes(Done()(run, destination), b"before")
    run_steps(run, [exchange(mode)], ONE, True)
    found = [Path(Done()(run, destination)).read_bytes() for destination in range(DESTINATIONS)]
    assert [data == b"before" for data in found] == [False, True, False, False, True]


def test_a_spilled_source_is_not_emitted_again(run):
    run_steps(run, [exchange("files")], ONE, True)
    first = {name: storage.sha256_of(run.work("move-1", name)) for name in storage.names_in(run.work("move-1"))}
    assert len(first) == SOURCES
    for destination in range(DESTINATIONS):
        os.unlink(Done()(run, destination))

    @dataclass(frozen=True)
    class Never(Sender):
        def __call__(self, run: Run, source: int) -> Iterator[tuple[int, bytes]]:
            raise AssertionError("emitted again")

    run_steps(run, [exchange("files", Never())], ONE, True)
    assert storage.names_in(run.path("out")) == {f"{destination}.json" for destination in range(DESTINATIONS)}


def test_a_failing_task_leaves_its_sentence_and_what_is_committed(run):
    with pytest.raises(Exception, match="task 2: this one fails"):
        run_steps(run, [Each("count", range(5), Count(fail_at=2)), Each("later", [9], Count())], ONE, True)
    sentences = [name for name in storage.names_in(run.work()) if name.startswith("sentence-mine-")]
    assert [Path(run.work(name)).read_text() for name in sentences] == ["task 2: this one fails"]
    assert not os.path.exists(run.path("calls-9")) and not os.path.exists(run.path("calls-2"))


def test_tasks_with_a_receipt_are_finished(run):
    assert unfinished(run, "stage-1", range(4)) == [0, 1, 2, 3]
    for task in (2, 0):
        write_receipt(run, "stage-1", Receipt(task=task, files=(), unit=Unit(unit=task, counts={"kept": task})))
    assert unfinished(run, "stage-1", range(4)) == [1, 3]
    assert unfinished(run, "stage-2", range(4)) == [0, 1, 2, 3]
    assert [receipt.unit.counts["kept"] for receipt in read_receipts(run, "stage-1", [2, 0])] == [2, 0]
    Path(receipt_path(run, "stage-1", 0)).write_text("{}")
    with pytest.raises(TokenmillError, match="receipt-0000000"):
        read_receipts(run, "stage-1", [0])


def test_threads_are_refused_and_the_local_runner_is_chosen():
    for option in ("--direct_running_mode=multi_threading", "multi_threading"):
        with pytest.raises(Refused, match="multi_processing"):
            check_options(["--direct_num_workers=4", option])
    for arguments, small, workers, mode in (
        ([], True, 1, "in_memory"),
        (["--runner=DirectRunner", "--direct_num_workers=3"], True, 3, "multi_processing"),
        (["--direct_num_workers=1"], False, 1, "in_memory"),
    ):
        runner, options = runner_and_options(arguments, small)
        found = options.get_all_options()
        assert type(runner).__name__ == "FnApiRunner"
        assert (found["direct_num_workers"], found["direct_running_mode"]) == (workers, mode)
    assert runner_and_options(["--runner=FlinkRunner"], False)[0] == "FlinkRunner"


# -- the lock ---------------------------------------------------------------------------------------------------------


def owner_file(folder: Path, **facts: object) -> None:
    owner = {"run_id": "other", "host": socket.gethostname(), "pid": 1, "started": 0.0, "heartbeat": time.time()}
    (folder / lock.LOCK).write_text(json.dumps(owner | facts))


def test_a_lock_is_held_once_and_given_back(tmp_path):
    first, second = Lock(str(tmp_path), "a"), Lock(str(tmp_path), "b")
    first.acquire()
    lock.check_owner(str(tmp_path), "a")
    with pytest.raises(Refused, match=f"run a .process {os.getpid()} on "):
        second.acquire()
    first.release()
    assert not (tmp_path / lock.LOCK).exists()
    second.acquire()
    with pytest.raises(TokenmillError, match=r"run a no longer owns this directory \(run b does\)"):
        lock.check_owner(str(tmp_path), "a")
    second.release()
    with pytest.raises(TokenmillError, match="nobody does"):
        lock.check_owner(str(tmp_path), "b")


@pytest.mark.parametrize(
    ("facts", "stale"),
    [
        ({"pid": 2**22 + 1}, True),
        ({"pid": os.getpid()}, True),  # another process had the number
        ({"pid": os.getpid(), "started": None}, False),  # None: when this process began
        ({"host": "elsewhere", "heartbeat": -lock.STALE - 5}, True),  # heartbeats: seconds from now
        ({"host": "elsewhere", "heartbeat": -lock.STALE / 2}, False),
    ],
)
def test_only_a_stale_lock_is_taken_over(tmp_path, facts, stale):
    import psutil  # noqa: PLC0415

    if "heartbeat" in facts:
        facts = facts | {"heartbeat": time.time() + facts["heartbeat"]}
    if "started" in facts:
        facts = facts | {"started": psutil.Process().create_time()}
    owner_file(tmp_path, **facts)
    owner = lock.owner_of(str(tmp_path))
    assert owner is not None and lock.is_stale(owner) == stale
    mine = Lock(str(tmp_path), "mine")
    if not stale:
        with pytest.raises(Refused, match="run other"):
            mine.acquire()
        assert lock.owner_of(str(tmp_path)) == owner
        return
    mine.acquire()
    lock.check_owner(str(tmp_path), "mine")
    mine.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "x"}'])
def test_a_lock_that_names_nobody_is_nobodys(tmp_path, text):
    (tmp_path / lock.LOCK).write_text(text)
    assert lock.owner_of(str(tmp_path)) is None
    mine = Lock(str(tmp_path), "mine")
    mine.acquire()
    mine.release()


def test_the_heartbeat_goes_on_until_another_run_takes_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    mine = Lock(str(tmp_path), "mine")
    mine.acquire()
    first = lock.owner_of(str(tmp_path))
    end = time.monotonic() + 20
    while lock.owner_of(str(tmp_path)) == first:
        assert time.monotonic() < end, "no heartbeat"
        time.sleep(0.01)
    temporary = tmp_path / "lock of the other"
    temporary.write_text(json.dumps(first | {"run_id": "other"}))
    os.replace(temporary, tmp_path / lock.LOCK)
    mine._thread.join(20)
    assert not mine._thread.is_alive()
    mine.release()
    owner = lock.owner_of(str(tmp_path))
    assert owner is not None and owner["run_id"] == "other"


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="give another --output"):
        Lock(str(tmp_path / "file"), "mine").acquire()


# -- commits ----------------------------------------------------------------------------------------------------------


def test_a_commit_tells_size_and_hash_and_leaves_nothing_else(run):
    written = run.commit_bytes(run.path("a", "b", "c.bin"), b"hello")
    assert (written.bytes, written.sha256) == (5, storage.sha256_of(run.path("a", "b", "c.bin")))
    assert storage.names_in(run.path("a", "b")) == {"c.bin"}


class Odd(Exception):
    """Something nobody foresaw."""


@pytest.mark.parametrize("error", [Odd(), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_a_failed_write_leaves_no_temporary_and_the_old_file(run, error):
    run.commit_bytes(run.path("out", "file"), b"old")

    def write(path: str) -> None:
        Path(path).write_bytes(b"half of the n")
        assert storage.names_in(run.path("out")) == {"file", os.path.basename(path)}
        raise error

    with pytest.raises((type(error), TokenmillError)) as caught:
        run.commit(run.path("out", "file"), write)
    if isinstance(error, OSError):
        assert str(caught.value) == f"{run.path('out', 'file')}: cannot be written: Input/output error"
    assert storage.names_in(run.path("out")) == {"file"}
    assert Path(run.path("out", "file")).read_bytes() == b"old"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("[Errno 28] Error writing: No space left on device")],
)
def test_a_full_disk_says_so(run, error):
    def write(path: str) -> None:
        raise error

    with pytest.raises(TokenmillError, match="the disk is full; free space and run the same command again"):
        run.commit(run.path("file"), write)


def test_who_has_lost_the_lock_commits_nothing(run):
    run.commit_bytes(run.path("out", "kept"), b"mine")
    owner_file(Path(run.directory))
    for name in ("kept", "new"):
        with pytest.raises(TokenmillError, match="run mine no longer owns this directory"):
            run.commit_bytes(run.path("out", name), b"late")
    assert storage.names_in(run.path("out")) == {"kept"}
    assert Path(run.path("out", "kept")).read_bytes() == b"mine"


def test_temporaries_of_killed_runs_are_removed_and_no_others(tmp_path):
    names = ["deep/.work/x/.tmp-dead-1-0-a", ".tmp-dead-1-1-b", "deep/.tmp-mine-2-0-c", "deep/kept", "deep/.hidden"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert storage.remove_temporaries(str(tmp_path), "mine") == 2
    assert [name for name in names if (tmp_path / name).exists()] == names[2:]
    assert storage.remove_temporaries(str(tmp_path)) == 1
    assert [name for name in names if (tmp_path / name).exists()] == names[3:]


def test_a_tree_is_removed_with_what_makes_it_look_whole_first(tmp_path, monkeypatch):
    for name in ("a/manifest.json", "a/data", "manifest.json"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text("")
    left: list[set[str]] = []
    remove = storage.shutil.rmtree
    monkeypatch.setattr(
        storage.shutil, "rmtree", lambda path: left.append({p.name for p in Path(path).rglob("*")}) or remove(path)
    )
    storage.remove_tree(str(tmp_path / "tree"))
    assert left == [{"a", "data"}] and not (tmp_path / "tree").exists()
    storage.remove_tree(str(tmp_path / "tree"))  # nothing there, nothing happens


def test_what_is_not_there_has_no_size_and_no_names(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert storage.size_of(str(tmp_path / "file")) == 3
    for name in ("none", "file/below"):
        assert storage.size_of(str(tmp_path / name)) is None
        assert storage.names_in(str(tmp_path / name)) == set()
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / "none"))


def test_a_scheme_makes_a_path_remote():
    assert not storage.is_local("gs://bucket/name") and storage.is_local("/tmp/name")
    assert storage.join("gs://bucket/run/", "a", "b") == "gs://bucket/run/a/b"

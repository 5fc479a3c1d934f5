"""One object at a time: every fault of a network, preconditions, lost answers, ranges, listings, the lock."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.sources import SourceChanged, list_entries, plan_slices, read_slices
from schemas import lock, objects, storage
from schemas.config import Source
from schemas.errors import Refused, TokenmillError
from schemas.gcs import Changed
from schemas.lock import Lock, check_owner
from schemas.retry import Retry
from tests.conftest import ROOT
from tests.emulator import BUCKET, client_of, stored, upload
from tests.pipelines.gcs.proxy import FAULTS, Proxy


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """A folder of the bucket that is this test's."""
    return f"gs://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}"


def once(kind: str, fault: str, times: int = 1) -> Callable[[str, str], str]:
    """The first requests of a kind meet a fault."""
    left = [fault] * times
    return lambda came, name: left.pop() if came == kind and left else ""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("size", [0, 70_000])
def test_a_put_survives_each_fault(fault: str, size: int, proxy: Proxy, emulator: int, place: str) -> None:
    data = content(size)
    proxy.choose = once("put", fault, 2)
    written = storage.write_bytes(f"{place}/a", data, "run")
    assert (written.bytes, written.sha256) == (size, sha(data))
    assert stored(emulator, place.split("/", 3)[3] + "/") == {"a": data}
    done = [request.status for request in proxy.requests if request.kind == "put"]
    # What was done although its answer was lost is not done again: the server refuses it, and that is success.
    assert done.count(200) == 1 and (done.count(412) > 0) == (fault in ("short", "ends_early", "lost"))


@pytest.mark.parametrize("fault", ["503", "drop", "lost"])
@pytest.mark.parametrize("kind", ["start", "put"])
def test_a_large_put_goes_in_parts_and_appears_whole(
    kind: str, fault: str, proxy: Proxy, emulator: int, place: str
) -> None:
    data = content(9 << 20)
    proxy.choose = once(kind, fault)
    storage.write_bytes(f"{place}/large", data, "run")
    assert proxy.count("start") == 2
    assert stored(emulator, place.split("/", 3)[3] + "/") == {"large": data}


@pytest.mark.parametrize("fault", FAULTS)
def test_reads_listings_and_deletes_survive_each_fault(fault: str, proxy: Proxy, emulator: int, place: str) -> None:
    data = content(300_000)
    upload(emulator, {f"{place.split('/', 3)[3]}/{name}": data for name in ("a", "b/c")})
    for kind in ("download", "stat", "list", "delete"):
        proxy.choose = once(kind, fault, 2)
        before = proxy.count(kind)
        if kind == "download":
            assert storage.read_bytes(f"{place}/a") == data
            proxy.choose = once(kind, fault, 2)
            with storage.open_read(f"{place}/a") as file:
                assert file.read() == data
        elif kind == "stat":
            assert storage.size_of(f"{place}/a") == len(data)
        elif kind == "list":
            assert storage.sizes_in(place) == {"a": len(data), "b": -1}
        else:
            storage.remove(f"{place}/a")
            assert storage.names_in(place) == {"b"}
        bodiless = kind == "delete" and fault in ("short", "ends_early")  # there is nothing to break off
        assert proxy.count(kind) >= before + (1 if bodiless else 2 if kind == "delete" and fault == "lost" else 3)
    assert storage.size_of(f"{place}/a") is None
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{place}/a")


def test_a_file_that_is_there_is_replaced_and_never_by_a_late_request(proxy: Proxy, emulator: int, place: str) -> None:
    storage.write_bytes(f"{place}/a", b"old", "run")
    first = objects.stat(f"{place}/a")
    assert first is not None and first.sha256 == sha(b"old")
    storage.write_bytes(f"{place}/a", b"new", "run")
    assert storage.read_bytes(f"{place}/a") == b"new"
    for generation in (0, first.generation):
        with pytest.raises(Changed, match=f"{place}/a"):
            objects.put_if(f"{place}/a", b"late", sha(b"late"), generation)
        with pytest.raises(Changed):
            objects.delete_if(f"{place}/a", first.generation)
    assert storage.read_bytes(f"{place}/a") == b"new"


def test_a_writer_that_lost_the_run_during_its_tries_writes_nothing(proxy: Proxy, place: str) -> None:
    asked = Counter[str]()

    def guard() -> None:
        asked["times"] += 1
        if asked["times"] == 2:
            raise TokenmillError("no longer owns this directory")

    proxy.choose = once("put", "503")
    with pytest.raises(TokenmillError, match="no longer owns"):
        storage.write_bytes(f"{place}/a", b"x", "run", guard)
    assert storage.size_of(f"{place}/a") is None


def test_a_server_that_stays_away_is_given_up_and_named(
    proxy: Proxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "RETRY", Retry(grace=0.5, first=0.05, longest=0.1))
    proxy.choose = lambda kind, name: "503"
    with pytest.raises(TokenmillError, match=rf"{place}/a: given up after [01] s and \d+ tries.*503"):
        storage.write_bytes(f"{place}/a", b"x", "run")


def test_ranges_give_the_files_bytes_and_few_requests(proxy: Proxy, emulator: int, place: str) -> None:
    data = content(5_000_000)
    upload(emulator, {f"{place.split('/', 3)[3]}/a": data})
    local, chance = io.BytesIO(data), np.random.default_rng(1)
    with storage.open_read(f"{place}/a") as file:
        for _ in range(60):
            at, count = int(chance.integers(0, len(data))), int(chance.integers(0, 90_000))
            assert file.seek(at) == local.seek(at)
            assert file.read(count) == local.read(count)
        assert file.seek(-7, os.SEEK_END) == len(data) - 7 and file.read() == data[-7:]
        assert file.read(1) == b""
    proxy.requests.clear()
    with storage.open_read(f"{place}/a") as file:
        while file.read(100_000):
            pass
    assert proxy.count("download") <= 8, "reading on does not ask for more and more at a time"


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(proxy: Proxy, emulator: int, place: str) -> None:
    upload(emulator, {f"{place.split('/', 3)[3]}/a": content(300_000)})
    with storage.open_read(f"{place}/a") as file:
        file.read(10)
        upload(emulator, {f"{place.split('/', 3)[3]}/a": content(300_001)})
        with pytest.raises(Changed, match=f"{place}/a"):
            file.read()


def test_sources_are_listed_once_and_read_as_local_ones(
    proxy: Proxy, emulator: int, place: str, tmp_path: Path
) -> None:
    names = ["a.py", "sub/b.py", "sub/ü x.py", "c.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content(1000 + len(name)))
    upload(emulator, {f"{place.split('/', 3)[3]}/{name}": (tmp_path / name).read_bytes() for name in names})

    def everything(path: str) -> tuple[object, ...]:
        source = Source(path=path, format="files", include=("**/*.py",))
        root, entries, rejects = list_entries(source)
        return entries, rejects, [list(read_slices(source, root, u)) for u in plan_slices(source, root, entries, 900)]

    assert everything(place) == everything(str(tmp_path))
    assert proxy.count("list") == 1
    source = Source(path=f"{place}/**/*.py", format="files")
    root, entries, _ = list_entries(source)
    assert [entry.path for entry in entries] == ["a.py", "sub/b.py", "sub/ü x.py"]
    storage.remove(f"{place}/a.py")
    with pytest.raises(SourceChanged, match="since it was listed"):
        list(read_slices(source, root, plan_slices(source, root, entries, 1 << 20)[0]))
    with pytest.raises(Refused, match="no file matches"):
        list_entries(Source(path=f"{place}/absent/**", format="files"))
    with pytest.raises(Refused, match="there is no bucket absent"):
        list_entries(Source(path="gs://absent/data/**", format="files"))


def test_of_two_starting_runs_one_wins(proxy: Proxy, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Lock(place, "one"), Lock(place, "other")
    seen = objects.read_generation(f"{place}/.lock")
    one.acquire()
    with pytest.raises(Refused, match=r"run one .* is at work"):
        other.acquire()
    proxy.choose = once("download", "ends_early")  # half a lock is not no lock
    with pytest.raises(Refused, match="run one"):
        other.acquire()
    monkeypatch.setattr(objects, "read_generation", lambda path: seen)  # it looked before `one` wrote
    with pytest.raises(Refused, match="another run took it this moment"):
        other.acquire()
    check_owner(place, "one")
    one.release()
    assert storage.names_in(place) == set()


def test_a_lock_that_was_taken_over_is_neither_renewed_nor_removed(
    proxy: Proxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    old, new = Lock(place, "old"), Lock(place, "new")
    proxy.choose = once("put", "lost")
    old.acquire()
    held = objects.stat(f"{place}/.lock")
    until = time.monotonic() + 20
    while objects.stat(f"{place}/.lock") == held:
        assert time.monotonic() < until, "no heartbeat"
        time.sleep(0.05)
    old._stop.set()  # no heartbeat between what `new` reads and writes
    old._thread.join()
    monkeypatch.setattr(lock, "is_stale", lambda owner: True)
    new.acquire()
    with pytest.raises(Changed):  # a heartbeat that was long on its way
        old._write()
    check_owner(place, "new")
    with pytest.raises(TokenmillError, match="run old no longer owns"):
        check_owner(place, "old")
    old.release()
    check_owner(place, "new")
    new.release()
    assert storage.names_in(place) == set()


def test_without_credentials_a_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOOGLE_", "STORAGE_"))}
    # No metadata server either: where there is one, it gives credentials.
    environment |= {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}
    command = [sys.executable, "-m", "pipelines", "status", "gs://bucket/run"]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 2, made.stderr
    assert "there are no Google Cloud credentials; run `gcloud auth application-default login`" in made.stderr


def test_the_emulator_itself_ignores_preconditions(emulator: int) -> None:
    """Why the proxy has them; when this fails, the proxy's can go."""
    blob = client_of(emulator).bucket(BUCKET).blob("precondition")
    blob.upload_from_string(b"1")
    blob.upload_from_string(b"2", if_generation_match=0)
    assert blob.download_as_bytes() == b"2"

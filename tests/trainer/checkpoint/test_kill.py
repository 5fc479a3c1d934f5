"""kill -9 and a full disk, at any moment: what was committed loads, and the next save is as any."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.checkpoint.tiny import assert_holds, saved, state
from trainer.checkpoint import Saver, newest_good, open_step
from trainer.checkpoint.load import steps

KILLS = 16
SCALE = 300  # state of 3 MB: a save takes some 30 ms here, so that kills land in it

# Saves step after step, saying when each is committed.
SAVING = f"""
import sys
from tests.trainer.checkpoint.tiny import owned, state
from trainer.checkpoint import Retention, Saver
saver = Saver(sys.argv[1], keep=Retention(2))
for step in range(int(sys.argv[2]), 10**6):
    saver.save(step, owned(state(step, {SCALE})), {{"step": step}})
    (outcome,) = saver.wait()
    print(step if outcome.error is None else outcome.error, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_kill_at_any_moment_leaves_the_last_commit(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    first, unfinished = 1, 0
    for _ in range(KILLS):
        child = start(SAVING, tmp_path, first)
        assert child.stdout is not None
        committed = int(child.stdout.readline())
        time.sleep(rng.uniform(0, 0.15))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        committed = max([committed, *map(int, rest)])
        unfinished += any(not (folder / "COMMIT.json").exists() for folder in tmp_path.glob("step-*"))
        found = newest_good(str(tmp_path))
        assert not found.quarantined
        assert found.checkpoint is not None
        # One more when the kill came between the commit and its being said.
        assert found.checkpoint.step in (committed, committed + 1)
        assert found.checkpoint.meta == {"step": found.checkpoint.step}
        assert_holds(found.checkpoint, state(found.checkpoint.step, SCALE))
        assert all(open_step(str(tmp_path), step) for step in steps(str(tmp_path)))
        first = found.checkpoint.step + 1
    assert unfinished >= 3  # else the kills fell beside the saves
    Saver(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {f"step-{step:08d}" for step in steps(str(tmp_path))}


# One save and the retention after it, killed before its n-th change of the folder; Python tells of each beforehand.
COUNTED = """
import os, signal, sys
from tests.trainer.checkpoint.tiny import owned, state
from trainer.checkpoint import Retention, Saver
directory, left = sys.argv[1], int(sys.argv[2])
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
def watch(event, arguments):
    global left
    if event in CHANGES and (event in ("os.remove", "os.rmdir") or str(arguments[0]).startswith(directory)):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
saver = Saver(directory, keep=Retention(1))
saver.prepare(owned(state(2)))
sys.addaudithook(watch)
saver.save(2, owned(state(2)), {})
sys.exit(int(saver.wait()[0].error is not None))
"""


def test_a_kill_before_each_change_of_the_folder(tmp_path: Path) -> None:
    seen = set()
    for change in range(1, 200):
        directory = tmp_path / str(change)
        saved(directory, 1, state(1))
        code = start(COUNTED, directory, change).wait()
        assert code in (0, -signal.SIGKILL)
        found = newest_good(str(directory))
        assert not found.quarantined
        assert found.checkpoint is not None
        assert_holds(found.checkpoint, state(found.checkpoint.step))
        assert all(open_step(str(directory), step) for step in steps(str(directory)))  # none is half deleted
        seen.add(found.checkpoint.step)
        if code == 0:
            break
        saved(directory, 3, state(3))  # whatever was left is in nobody's way
        assert_holds(open_step(str(directory), 3), state(3))
    assert change > 30
    assert seen == {1, 2}


# -- no space -----------------------------------------------------------------------------------------------------


def assert_survives(directory: Path, step: int, kept: int, error: str) -> None:
    assert str(directory / f"step-{step:08d}") in error
    found = newest_good(str(directory))
    assert found.checkpoint is not None
    assert found.checkpoint.step == kept
    assert not found.quarantined
    assert_holds(found.checkpoint, state(kept, SCALE))
    assert not list((directory / f"step-{step:08d}").rglob("c/*"))  # the space was given back


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MB: one checkpoint and a part of another."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    directory = small_disk / "checkpoints"
    saved(directory, 1, state(1, SCALE))
    # However little or much is left of the place a save needs, it fails as a whole and says why.
    for left in (0, 4_096, 100_000, 700_000):
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        (small_disk / "other").write_bytes(bytes(free - left))
        with pytest.raises(Exception, match="the disk is full") as failed:
            saved(directory, 2, state(2, SCALE))
        assert_survives(directory, 2, 1, str(failed.value))
        (small_disk / "other").unlink()
    saved(directory, 2, state(2, 100))
    assert_holds(open_step(str(directory), 2), state(2, 100))


LIMITED = f"""
import resource, sys
from tests.trainer.checkpoint.tiny import save, state
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
(outcome,) = save(Path(sys.argv[1]), 2, state(2, {SCALE}))
print(outcome.error)
"""


@pytest.mark.parametrize("limit", [0, 700, 100_000])
def test_a_file_that_cannot_grow(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stops a write in the middle, as a quota would; with 700, at zarr.json."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    saved(tmp_path, 1, state(1, SCALE))
    child = start(LIMITED, tmp_path, limit)
    error = child.communicate(timeout=300)[0]
    assert "cannot be written: File too large" in error
    assert_survives(tmp_path, 2, 1, error)

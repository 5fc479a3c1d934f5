"""Checkpoints on gs:// that processes of their own save: two together, and one killed while a put is on its way."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable

from tests.conftest import ROOT
from tests.pipelines.gcs.proxy import Proxy
from tests.trainer.checkpoint.tiny import assert_holds, state
from trainer.checkpoint import newest_good, open_step, retention

SCALE = 100  # 1 MB

SAVING = f"""
import sys
from tests.trainer.checkpoint.tiny import owned, state
from trainer.checkpoint import Retention, Saver
process, processes = int(sys.argv[3]), int(sys.argv[4])
saver = Saver(sys.argv[1], process=process, processes=processes, run=sys.argv[2], keep=Retention(2))
print("made", flush=True)
sys.stdin.readline()  # as all processes of a run do, before the first step
for step in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[5])):
    saver.save(step, owned(state(step, {SCALE}), process, processes), {{"step": step}})
    (outcome,) = saver.wait()
    print(step if outcome.error is None else outcome.error, flush=True)
"""


def start(place: str, first: int, process: int, processes: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SAVING, place, *map(str, (first, process, processes, count))]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "made\n"
    return child


def test_two_processes_save_together(proxy: Proxy, place: str) -> None:
    children = [start(place, 1, process, 2, 2) for process in (1, 0)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.communicate(timeout=300)[0].split() for child in children] == [["1", "2"]] * 2
    for step in (1, 2):
        assert_holds(open_step(place, step), state(step, SCALE))


def killer(child: subprocess.Popen[str], wanted: int) -> Callable[[str, str], str]:
    """Kills a process while the put that is so many puts from now is on its way."""
    puts = itertools.count(1)

    def choose(kind: str, name: str) -> str:
        if kind == "put" and next(puts) == wanted:
            child.kill()
        return ""

    return choose


def test_kill_9_in_a_save_leaves_the_one_before(proxy: Proxy, place: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    first, unfinished = 1, 0
    for _ in range(5):
        child = start(place, first, 0, 1, 1000)
        assert child.stdout is not None and child.stdin is not None
        child.stdin.close()
        committed = int(child.stdout.readline())
        proxy.choose = killer(child, chance.randint(1, 12))
        committed = max([committed, *map(int, child.stdout.read().split())])
        child.wait()
        unfinished += bool(retention.leftovers(place))
        found = newest_good(place)
        assert found.checkpoint is not None and not found.quarantined
        assert found.checkpoint.step in (committed, committed + 1)
        assert_holds(found.checkpoint, state(found.checkpoint.step, SCALE))
        first = found.checkpoint.step + 1
    assert unfinished >= 1  # else each fell on the put of a commit marker

"""A process that dies, stops or hangs is an error in the others, in a bounded time."""

from __future__ import annotations

import threading
import time

import pytest
import tensorflow as tf

from tests.trainer.mesh.launch import start
from tests.trainer.mesh.lost import HEARTBEAT, PATIENCE
from trainer.mesh.cluster import PeerLost, Watch

CASES = [("kill", 1), ("stop", 0), ("hang", 1)]


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    """What survivors printed, by how the other was lost; all cases at once, as they mostly wait."""
    pairs = {how: start("tests.trainer.mesh.lost", 2, how, str(lost)) for how, lost in CASES}
    found = {}
    try:
        for how, lost in CASES:
            out, err = pairs[how][1 - lost].communicate(timeout=600)
            assert pairs[how][1 - lost].returncode == 0, err
            found[how] = out.splitlines()
    finally:
        for pair in pairs.values():
            for process in pair:
                process.kill()
                process.communicate()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("how", "at_most"), [("kill", HEARTBEAT), ("stop", HEARTBEAT), ("hang", PATIENCE)])
def test_a_lost_process_is_an_error_in_the_other(said: dict[str, list[str]], how: str, at_most: float) -> None:
    assert len(said[how]) == 2, said[how]
    for line, limit in zip(said[how], (4 * at_most + 20, 20), strict=True):  # slack for a busy machine
        seconds, _, message = line.partition(" ")
        assert float(seconds) < limit
        assert "step: another process of the mesh has died or does not answer; start all of them again" in message
    if how == "hang":
        assert f"no collective ended for {PATIENCE:g} s" in said[how][0]


def watched(timeout: float, progress: list[int]) -> tuple[Watch, threading.Event, list[str]]:
    """A watch over numbers of our own; the event is set once it has aborted."""
    aborted, why = threading.Event(), []

    def abort(reason: str) -> None:
        why.append(reason)
        aborted.set()

    return Watch(timeout, lambda: progress[0], abort), aborted, why


def test_the_watch_waits_as_long_as_collectives_end() -> None:
    progress = [0]
    watch, aborted, why = watched(0.4, progress)
    with watch("work"):
        for _ in range(10):
            time.sleep(0.1)
            progress[0] += 1
        assert not why
        assert aborted.wait(20)
    assert why == ["no collective ended for 0.4 s"]


def test_the_watch_is_off_between_calls() -> None:
    watch, aborted, _ = watched(0.2, [0])
    with watch("work"):
        pass
    assert not aborted.wait(1.0)


def test_errors_that_are_no_collectives_pass_the_watch() -> None:
    watch, _, _ = watched(60, [0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="a bad record"), watch("work"):
        raise tf.errors.InvalidArgumentError(None, None, "a bad record")
    with pytest.raises(PeerLost, match=r"work: .*\(reset by peer\)"), watch("work"):
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: reset by peer\nThe error could be")

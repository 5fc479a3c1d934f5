"""Saves one after another: no two at a time, no failure lost, and what stays of the old ones."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Refused, TokenmillError
from tests.trainer.checkpoint.tiny import assert_holds, owned, saved, state
from trainer.checkpoint import Retention, Saver, abandon_after, arrays, newest_good, open_step
from trainer.checkpoint.load import steps

losses = st.dictionaries(st.integers(0, 400), st.none() | st.floats(allow_nan=False), max_size=30)


@given(losses, st.integers(1, 6), st.none() | st.integers(1, 50))
def test_what_retention_keeps(known: dict[int, float | None], newest: int, every: int | None) -> None:
    gone = set(Retention(newest, every).superfluous(known))
    kept = known.keys() - gone
    assert gone <= known.keys()
    assert kept >= set(sorted(known)[-newest:])
    assert not every or all(step % every for step in gone)
    measured = {step: loss for step, loss in known.items() if loss is not None}
    if measured:
        assert min(measured.values()) in [measured.get(step) for step in kept]
    # Nothing stays without a reason: at most one besides the newest and the multiples.
    others = [step for step in kept - set(sorted(known)[-newest:]) if not every or step % every]
    assert len(others) <= 1


@pytest.mark.parametrize(("newest", "every"), [(0, None), (-1, 3), (1, 0)])
def test_retention_that_could_delete_all_is_refused(newest: int, every: int | None) -> None:
    with pytest.raises(Refused, match="at least 1"):
        Retention(newest, every)


def test_old_checkpoints_go_after_a_newer_one_is_committed(tmp_path: Path) -> None:
    saver = Saver(str(tmp_path), keep=Retention(2, every=40))
    for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 2.5), (50, 2.4), (60, 2.3)):
        saver.save(step, owned(state(step)), {"validation_loss": loss})
    outcomes = saver.wait()
    assert [outcome.error for outcome in outcomes] == [None] * 6
    assert [name for outcome in outcomes for name in outcome.removed] == ["step-00000010", "step-00000030"]
    assert steps(str(tmp_path)) == [20, 40, 50, 60]
    assert_holds(open_step(str(tmp_path), 20), state(20))


def test_a_failed_save_deletes_nothing_and_is_told(tmp_path: Path) -> None:
    saved(tmp_path, 1, state(1))
    saver = Saver(str(tmp_path), keep=Retention(1))
    (tmp_path / "step-00000002").write_text("in the way")
    saver.save(2, owned(state(2)), {})
    saver.save(3, owned(state(3)), {})
    failed, good = saver.wait()
    assert isinstance(failed.error, TokenmillError)
    assert str(tmp_path / "step-00000002") in str(failed.error)
    assert failed.step == 2
    assert failed.removed == ()
    assert good.error is None
    assert steps(str(tmp_path)) == [3]
    assert saver.outcomes() == []


def test_a_failure_nobody_looked_at_is_raised_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "step-00000002").write_text("in the way")
    with pytest.raises(TokenmillError, match="step-00000002"), Saver(str(tmp_path)) as saver:
        saver.save(2, owned(state(2)), {})


def test_two_saves_never_overlap_and_waiting_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, write = 0, 0, arrays.write
    lock, release = threading.Lock(), threading.Event()

    def slow(*given: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert release.wait(300)
        found = write(*given)
        with lock:
            running -= 1
        return found

    monkeypatch.setattr(arrays, "write", slow)
    content = state(1)
    with Saver(str(tmp_path)) as saver:
        first = saver.save(1, owned(content), {})  # training goes on though nothing can be written yet
        for array in content.values():
            array[...] = 0
        threading.Timer(0.2, release.set).start()
        second = saver.save(2, owned(state(2)), {})
        assert release.is_set()
        outcomes = saver.wait()
    assert most == 1
    assert first.waited_seconds < 0.1 < second.waited_seconds
    assert [outcome.blocked for outcome in outcomes] == [first, second]
    assert_holds(open_step(str(tmp_path), 1), state(1))
    assert_holds(open_step(str(tmp_path), 2), state(2))


def test_a_committed_step_is_not_overwritten(tmp_path: Path) -> None:
    saved(tmp_path, 1, state(1))
    saver = Saver(str(tmp_path))
    saver.save(1, owned(state(2)), {})
    (outcome,) = saver.wait()
    assert isinstance(outcome.error, Refused) and "it is not overwritten" in str(outcome.error)
    assert_holds(open_step(str(tmp_path), 1), state(1))


def test_a_run_that_goes_back(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path, step, state(step))
    moved = abandon_after(str(tmp_path), 1)
    assert [Path(path).name for path in moved] == ["abandoned-step-00000003", "abandoned-step-00000002"]
    found = newest_good(str(tmp_path)).checkpoint
    assert found is not None
    assert found.step == 1
    saved(tmp_path, 2, state(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    assert_holds(open_step(str(tmp_path), 2), state(20))


def test_leftovers_go_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    saved(tmp_path, 1, state(1))
    for name in ("step-00000005", "step-00000009"):
        (tmp_path / name / "process-00000-of-00001").mkdir(parents=True)
    for name in ("step-5", "step-00000007.old", "quarantined-step-00000004", "notes"):
        (tmp_path / name).mkdir()
    saver = Saver(str(tmp_path))
    saver.save(6, owned(state(6)), {})
    assert saver.wait()[0].removed == ("step-00000005", "step-00000009")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("step-00000001", "step-00000006", "step-5", "step-00000007.old", "quarantined-step-00000004", "notes")
    }


@pytest.mark.parametrize("options", [{"process": 1}, {"process": -1}, {"processes": 2}])
def test_impossible_processes_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        Saver(str(tmp_path), **options)

"""Bad steps are left out; several in a row make the run go back; it ends as one that had none, and says what it did."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.injected import Faults
from schemas.errors import TokenmillError
from tests.conftest import ROOT
from tests.trainer.training.configs import content
from tests.trainer.training.test_resume import same, told
from trainer.checkpoint.load import steps
from trainer.training.config import RunConfig
from trainer.training.loop import run
from trainer.training.records import Callback, RollbackRecord, StepRecord
from trainer.training.recovery import Recovery, RecoveryConfig, next_position
from trainer.training.trainer import Trainer

WINDOW = 16
STEPS = 60
BATCH = 32


def config_of(view: Path, output: Path, **changes: Any) -> RunConfig:
    given: dict[str, Any] = {
        "schedules": {
            "learning_rate": {"kind": "constant", "value": 0.001},
            "batch_size": {"kind": "constant", "sequences": BATCH},
        },
        "stop": {"steps": STEPS},
        "validation": {"every": STEPS, "records": 32},
        "checkpoints": {"every": 10, "keep": 3},
        "recovery": {"window": WINDOW},
        "log_every": 1000,
    }
    return RunConfig.model_validate(content(view, output, **{**given, **changes}))


def at(step: int) -> int:
    """Where the batch of a step begins, in a run that steps over nothing."""
    return (step - 1) * BATCH


def left_out(output: Path) -> list[int]:
    return [line["step"] for line in told(output, "step") if not line["applied"]]


def last_loss(output: Path) -> float:
    loss = told(output, "validation")[-1]["loss"]
    assert isinstance(loss, float)
    return loss


@pytest.fixture(scope="module")
def undisturbed(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run(config_of(small_run / "shards/64", output))
    assert left_out(output) == []
    return output


def near(one: Path, other: Path) -> None:
    """Within the noise of a few steps more or less."""
    assert abs(last_loss(one) - last_loss(other)) < 0.05
    assert told(other, "validation")[0]["loss"] - last_loss(other) > 0.8


def test_single_bad_steps_are_left_out(
    undisturbed: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faults({at(4): math.nan, at(30): 1e6, at(45): math.inf}, garbage=[at(50)]).install(monkeypatch.setattr)
    run(config_of(small_run / "shards/64", tmp_path / "out"))
    assert left_out(tmp_path / "out") == [4, 30, 45, 50]
    assert told(tmp_path / "out", "rollback") == []
    near(tmp_path / "out", undisturbed)


class Crash(Callback):
    """Ends the process's work without a save, some steps after the run went back."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._step: int | None = None

    def on_rollback(self, record: RollbackRecord) -> None:
        self._step = record.to_step + self._after
        if not self._after:
            raise KeyboardInterrupt

    def on_step_end(self, record: StepRecord) -> None:
        if record.step == self._step:
            raise KeyboardInterrupt


def test_three_bad_batches_in_a_row_and_kills_after(
    undisturbed: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rollback makes the good steps again without the bad records. Killed at any time it ends the same."""
    bad = [at(36), at(37), at(38)]
    Faults(garbage=bad).install(monkeypatch.setattr)
    view = small_run / "shards/64"
    run(config_of(view, tmp_path / "out"))
    (record,) = told(tmp_path / "out", "rollback")
    assert record["step"] == 38
    assert record["to_step"] == 30
    assert record["bad"] == [[position, position + BATCH] for position in bad]
    assert record["over"] == record["bad"]
    # Steps 31 to 35 twice, with the same numbers; the one after them on the first records that were not bad.
    lines = told(tmp_path / "out", "step")
    assert [line["step"] for line in lines] == [*range(1, 39), *range(31, STEPS + 1)]
    assert [line["loss"] for line in lines[30:35]] == [line["loss"] for line in lines[38:43]]
    assert lines[43]["position"] == at(39) + BATCH
    alerts = [json.loads(line) for line in (tmp_path / "out/alerts.jsonl").read_text().splitlines()]
    assert [alert["state"] for alert in alerts if alert["kind"] == "ROLLED_BACK"] == ["firing", "ended"]
    near(tmp_path / "out", undisturbed)
    for after in (0, 4, 14):
        killed = tmp_path / f"killed{after}"
        with pytest.raises(KeyboardInterrupt):
            run(config_of(view, killed), [Crash(after)])
        run(config_of(view, killed))
        same(tmp_path / "out", killed, STEPS)
        assert len(told(killed, "rollback")) == 1


class Damage(Callback):
    """Of a weight in memory, once."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None

    def on_step_end(self, record: StepRecord) -> None:
        if record.step == 15 and self.trainer is not None:
            variable = self.trainer.model.variables_in_order[-1]
            variable.assign(np.full(variable.shape, np.nan))
            self.trainer = None


def test_damaged_memory_is_mended_from_the_checkpoint(
    undisturbed: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = Damage()
    make = Trainer.__init__

    def made(trainer: Trainer, *arguments: Any) -> None:
        make(trainer, *arguments)
        damage.trainer = trainer

    monkeypatch.setattr(Trainer, "__init__", made)
    run(config_of(small_run / "shards/64", tmp_path / "out"), [damage])
    assert left_out(tmp_path / "out") == [16, 17, 18]
    assert [(line["step"], line["to_step"]) for line in told(tmp_path / "out", "rollback")] == [(18, 10)]
    near(tmp_path / "out", undisturbed)


def test_where_it_stays_bad_it_steps_over_more_and_then_gives_up(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no checkpoint left to go back to it begins anew, behind what was bad."""
    faults = Faults({at(step): math.nan for step in range(26, 200)})
    faults.install(monkeypatch.setattr)
    with pytest.raises(TokenmillError, match="3 steps in a row were bad at step 13, after 3 rollbacks"):
        run(config_of(small_run / "shards/64", tmp_path / "out"))
    went = [(line["step"], line["to_step"], line["over"]) for line in told(tmp_path / "out", "rollback")]
    first = [[at(step), at(step + 1)] for step in (26, 27, 28)]
    assert went == [
        (28, 20, first),
        (28, 20, [*first, [at(21), at(32)]]),
        (23, 10, [*first, [at(21), at(32)], [at(11), at(35)]]),
    ]
    assert steps(str(tmp_path / "out/checkpoints")) == [10]
    assert list((tmp_path / "out/checkpoints").glob("abandoned-step-00000020*"))


def test_without_a_checkpoint_it_begins_anew(
    undisturbed: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faults({at(step): math.nan for step in (2, 3, 4)}).install(monkeypatch.setattr)
    run(config_of(small_run / "shards/64", tmp_path / "out"))
    (record,) = told(tmp_path / "out", "rollback")
    assert (record["to_step"], record["checkpoint"]) == (0, None)
    lines = told(tmp_path / "out", "step")
    assert [line["position"] for line in lines[4:6]] == [BATCH, at(5) + BATCH]
    assert lines[4]["loss"] == told(undisturbed, "step")[0]["loss"]
    near(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_on_two_processes_a_fault_of_one_is_answered_by_both(
    undisturbed: Path, small_run: Path, tmp_path: Path
) -> None:
    """Large gradients, three of them in a row and a weight that becomes NaN, all in process 1 alone."""
    config = config_of(small_run / "shards/64", tmp_path / "out", mesh={"data": 2, "timeout": 60})
    (tmp_path / "train.yaml").write_text(config.dump_yaml())
    large = [at(26), at(27), at(28)]
    faults = {"gradients": dict.fromkeys([at(4), *large], 1e6), "weights": [at(48)]}
    (tmp_path / "faults.json").write_text(json.dumps({"rank": 1, "told": str(tmp_path / "told.jsonl"), **faults}))
    worker = [sys.executable, "benchmarks/injected.py", str(tmp_path / "train.yaml"), str(tmp_path / "faults.json")]
    program = (
        "import sys\n"
        "from trainer.launch import Launcher\n"
        f"sys.exit(Launcher(2, {worker!r}, [{str(tmp_path / 'out/checkpoints')!r}], 0).run())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    went = [(line["step"], line["to_step"], line["bad"]) for line in told(tmp_path / "out", "rollback")]
    bad = [[position, position + BATCH] for position in large]
    assert went[0] == (28, 20, bad)
    assert [(step, to_step) for step, to_step, _ in went[1:]] == [(47, 40)]
    near(tmp_path / "out", undisturbed)


# The rules, without a training


def step(number: int, total: float, norm: float, applied: bool = True) -> StepRecord:
    return StepRecord(
        step=number,
        position=number * BATCH,
        tokens=0,
        sequences=BATCH,
        learning_rate=0.0,
        bias_speed=0.0,
        mtp_weight=0.0,
        loss=total,
        total=total,
        mtp=0.0,
        balance=0.0,
        components={},
        labels=1,
        norm=norm,
        applied=applied,
        experts=(),
        tokens_per_second=1.0,
        input_seconds=0.0,
        step_seconds=1.0,
    )


def test_limits_are_of_the_last_steps_that_are_finite() -> None:
    recovery = Recovery(RecoveryConfig(window=WINDOW, sigmas=4))
    losses = np.random.default_rng(0).normal(3, 0.3, 40)
    norms = np.random.default_rng(1).lognormal(0, 2, 40)
    for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
        assert (recovery.limits() == (math.inf, math.inf)) == (number <= WINDOW // 2)
        norms[number - 1] = min(norm, recovery.limits()[1])
        recovery.see(step(number, loss, norms[number - 1]))
        recovery.see(step(number, math.nan, 1.0, applied=False))
    expected = [values[-WINDOW:].mean() + 4 * values[-WINDOW:].std() for values in (losses, norms)]
    assert recovery.limits() == pytest.approx(expected)
    # What is too large enters as the limit it was above.
    recovery.see(step(41, 3.0, 1e30, applied=False))
    norms = np.append(norms, expected[1])[-WINDOW:]
    assert recovery.limits()[1] == pytest.approx(norms.mean() + 4 * norms.std())
    other = Recovery(RecoveryConfig(window=WINDOW, sigmas=4))
    other.restore(json.loads(json.dumps(recovery.state())))
    assert (other.limits(), other.skipped) == (recovery.limits(), recovery.skipped)


def test_small_changes_in_a_flat_window_are_good() -> None:
    recovery = Recovery(RecoveryConfig(window=WINDOW))
    for number in range(WINDOW):
        recovery.see(step(number, 2.0, 0.5))
    assert recovery.limits() == pytest.approx((2.0 * (1 + 6 * 0.02), 0.5 * (1 + 6 * 0.5)))


def test_rollbacks_are_forgotten_after_a_window_of_good_steps() -> None:
    recovery = Recovery(RecoveryConfig(window=8, skips=1, rollbacks=1))
    assert recovery.see(step(5, 1, 1, applied=False))
    assert recovery.before(5) == 5
    assert recovery.gone_back(4, 4 * BATCH, {}) == ((4 * BATCH, 5 * BATCH),)
    for number in range(5, 13):
        assert (recovery.see(step(number, 1, 1, applied=number != 8))) == (number == 8)
        if number < 13:
            with pytest.raises(TokenmillError, match=r"recovery\.rollbacks"):
                recovery.before(number)
    recovery.see(step(13, 1, 1))
    assert recovery.before(13) == 14


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1])), max_size=5)


@given(st.integers(0, 70), st.integers(1, 12), spans)
def test_the_next_position_is_the_first_free_one(position: int, sequences: int, over: list[tuple[int, int]]) -> None:
    covered = {each for begin, end in over for each in range(begin, end)}
    found = next_position(position, sequences, over)
    assert not covered & set(range(found, found + sequences))
    free = (p for p in range(position, 200) if not covered & set(range(p, p + sequences)))
    assert found == next(free)

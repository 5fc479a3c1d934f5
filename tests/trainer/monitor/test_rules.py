"""Every rule on made-up histories: when it begins, when it ends, and that a restored one judges alike."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.monitor.records import EVEN, step
from trainer.monitor.config import AlertsConfig, Kind
from trainer.monitor.learning import DeadExpert, ExpertImbalance, LossSpike, NonFinite, numbers
from trainer.monitor.memory import HighMemory, MemoryRunsOut, growth
from trainer.monitor.pace import CheckpointFailed, CheckpointLate, InputStall, NoStep, ThroughputDrop
from trainer.monitor.triggers import Change, Recent, Trigger
from trainer.training.records import CheckpointRecord, Utilisation, ValidationRecord

CONFIG = AlertsConfig()


def flips(changes: list[Change | None]) -> list[tuple[int, bool]]:
    """At which places there was a change, and whether it began something."""
    return [(i, change.firing) for i, change in enumerate(changes) if change]


# -- triggers ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 2) | st.just(math.nan)), st.integers(1, 4), st.integers(1, 4))
def test_a_trigger_changes_only_after_enough_values_beyond_its_levels(
    values: list[float], times: int, calm: int
) -> None:
    trigger = Trigger(1.0, 0.8, times, calm)
    for i, value in enumerate(values):
        was = trigger.active
        if trigger.see(value):
            assert trigger.active is not was
            last = values[i + 1 - (calm if was else times) : i + 1]
            assert len(last) == (calm if was else times)
            assert all(each <= 0.8 if was else each > 1.0 for each in last)
        else:
            assert trigger.active is was
    # Nothing between the levels ever changes it.
    was = trigger.active
    assert not any(trigger.see(0.9) for _ in range(10))
    assert trigger.active is was


def test_a_trigger_cannot_end_above_where_it_begins() -> None:
    with pytest.raises(ValueError, match="off"):
        Trigger(1.0, 1.1)


def test_recent_is_the_mean_of_the_window_or_of_one_long_step() -> None:
    recent = Recent(3.0)
    assert recent.add(0.5, 10) is None
    assert recent.add(0.5, 10) == 20
    for _ in range(10):
        recent.add(1.0, 5)
    assert recent.add(1.0, 5) == pytest.approx(5)
    assert recent.add(100.0, 100) == pytest.approx(1)


# -- learning ----------------------------------------------------------------------------------------------------


def test_a_spike_is_twice_the_least_of_the_last_ten() -> None:
    def see(*losses: float) -> list[tuple[int, bool]]:
        rule = LossSpike(CONFIG)
        return flips([rule.see(loss) for loss in losses])

    assert see(*[4.0] * 9, 3.0, *[4.0] * 8, 6.01) == [(18, True)]  # 3.0 is the ninth before
    assert see(*[4.0] * 9, 3.0, *[4.0] * 8, 6.0) == []  # not more than twice
    assert see(3.0, *[4.0] * 10, 7.9) == []  # 3.0 is the eleventh before
    assert see(4.0, 8.1, 8.0, 7.3, 7.3, 4.0, 4.0, 4.0) == [(1, True), (7, False)]  # 7.3 is above 0.9 x 8
    assert see(12.0, 9.0, 5.0, 2.6, 1.4) == []


def test_what_is_not_finite_is_named_and_spoils_no_window() -> None:
    spike, rule = LossSpike(CONFIG), NonFinite(CONFIG)
    for number in range(1, 11):
        assert spike.see(4.0) is None
        assert rule.see(numbers(step(number))) is None
    assert spike.see(math.nan) is None
    found = rule.see(numbers(step(11, loss=math.nan, norm=math.inf, components={"code": math.nan, "prose": None})))
    assert found is not None
    assert (found.kind, found.firing) == (Kind.NON_FINITE, True)
    assert found.message == "loss nan, gradient norm inf, loss of code nan"
    assert flips([rule.see(numbers(step(n))) for n in range(12, 20)]) == [(2, False)]
    again = spike.see(8.1)
    assert again is not None and again.firing
    validation = ValidationRecord(20, 1, 1, math.inf, {"code": 3.0}, {"code": 1}, 0.1)
    found = rule.see(numbers(validation))
    assert found is not None and found.message == "validation loss inf"


def experts(*cvs: float, dead: int = 0) -> tuple[Utilisation, ...]:
    return tuple(Utilisation(cv, 0.5, 1.5, dead) for cv in cvs)


def test_imbalance_is_of_one_layer_for_three_steps_after_the_warmup() -> None:
    config = AlertsConfig(expert_warmup=2)

    def see(*layers: tuple[Utilisation, ...]) -> list[Change | None]:
        rule = ExpertImbalance(config)
        return [rule.see(number, layer) for number, layer in enumerate(layers, 1)]

    changes = see(*[experts(0.1, 0.31)] * 6)
    assert flips(changes) == [(4, True)]  # steps 3, 4, 5
    assert changes[4] is not None and "layers with experts 1: 0.31 or more for 3 steps" in changes[4].message
    assert flips(see(*[experts(0.31, 0.1), experts(0.1, 0.31)] * 6)) == []  # never the same layer
    assert flips(see(*[experts(0.3, 0.3)] * 9)) == []
    # Ends when the least of three steps is below 0.27 three times.
    assert flips(see(*[experts(0.4)] * 5, *[experts(0.29)] * 5, *[experts(0.2)] * 3)) == [(4, True), (12, False)]


def test_dead_experts_are_dead_for_three_steps() -> None:
    rule = DeadExpert(AlertsConfig(expert_warmup=0))
    history = [experts(0.1, dead=d) for d in (1, 1, 0, 1, 1, 1, 1, 0, 0, 0)]
    assert flips([rule.see(n, layers) for n, layers in enumerate(history, 1)]) == [(5, True), (9, False)]
    assert DeadExpert(CONFIG).see(1000, ()) is None


HISTORY = st.lists(
    st.tuples(st.sampled_from([2.0, 4.0, 9.0, math.nan]), st.sampled_from([0.1, 0.28, 0.5]), st.integers(0, 1)),
    max_size=30,
)


@given(HISTORY, st.integers(0, 30))
def test_restored_rules_judge_as_those_that_went_on(history: list[Any], at: int) -> None:
    config = AlertsConfig(expert_warmup=3)

    def rules() -> list[Any]:
        return [LossSpike(config), NonFinite(config), ExpertImbalance(config), DeadExpert(config)]

    def see(rules_: list[Any], number: int, loss: float, cv: float, dead: int) -> list[Change | None]:
        spike, finite, imbalance, dead_ = rules_
        layers = experts(cv, 0.1, dead=dead)
        found = [spike.see(loss), finite.see(numbers(step(number, loss=loss)))]
        return [*found, imbalance.see(number, layers), dead_.see(number, layers)]

    one, other = rules(), rules()
    for number, (loss, cv, dead) in enumerate(history):
        if number == at:
            saved = json.loads(json.dumps([rule.state() for rule in other], allow_nan=False))
            other = rules()
            for rule, state in zip(other, saved, strict=True):
                rule.restore(state)
        assert see(one, number, loss, cv, dead) == see(other, number, loss, cv, dead)


# -- pace --------------------------------------------------------------------------------------------------------


def run_pace(*pieces: tuple[int, float, float]) -> tuple[list[tuple[float, bool]], list[tuple[float, bool]]]:
    """(steps, seconds of input, seconds of step) of each piece; when throughput and input changed, in seconds."""
    drop, stall, now = ThroughputDrop(CONFIG), InputStall(CONFIG), 0.0
    drops, stalls = [], []
    for steps, waited, made in pieces:
        for _ in range(steps):
            now += waited + made
            for change, found in ((drop.see(1000, waited + made), drops), (stall.see(waited, waited + made), stalls)):
                if change:
                    found.append((now, change.firing))
    return drops, stalls


@pytest.mark.parametrize("seconds", [0.05, 0.5, 5.0, 20.0])
def test_slowed_input_is_seen_within_a_minute_or_two_steps_and_its_end(seconds: float) -> None:
    healthy = max(50, int(40 / seconds))
    began = healthy * seconds
    slow = max(60, int(60 / (6 * seconds)))
    (drop, back), (stall, over) = run_pace(
        (healthy, 0.0, seconds), (slow, 5 * seconds, seconds), (3 * healthy, 0.0, seconds)
    )
    assert drop[1] and stall[1] and not back[1] and not over[1]
    late = max(60.0, 2 * 6 * seconds)
    assert 0 < drop[0] - began <= late
    assert 0 < stall[0] - began <= late
    ended = began + slow * 6 * seconds
    assert 0 < back[0] - ended <= max(60.0, 2 * seconds)


def test_a_hiccup_is_no_drop_and_a_slow_run_never_becomes_usual() -> None:
    assert run_pace((200, 0.0, 0.5), (1, 0.0, 10.0), (200, 0.0, 0.5)) == ([], [])
    assert run_pace((200, 0.0, 0.5), (500, 0.0, 0.9), (200, 0.0, 0.5)) == ([], [])
    drops, _ = run_pace((200, 0.0, 0.5), (5000, 0.0, 1.2))
    assert len(drops) == 1


def test_no_step_for_a_while() -> None:
    rule = NoStep(AlertsConfig(no_step=45, no_step_times=5, first_step=900), now=0.0)
    assert rule.see(899.0) is None
    found = rule.see(901.0)
    assert found is not None and "of this process yet" in found.message
    rule.stepped(902.0, 1, 902.0, traced=True)
    found = rule.see(902.5)
    assert found is not None and not found.firing
    for number in range(2, 200):
        rule.stepped(902.0 + number, number, 1.0, traced=False)
    now = 902.0 + 199
    assert rule.see(now + 44) is None
    rule.alive(now + 44)
    assert rule.see(now + 80) is None
    found = rule.see(now + 90)
    assert found is not None and found.firing and "after step 199 for 46 s" in found.message
    for number in range(200, 400):
        rule.stepped(now + 30 * number, number, 30.0, traced=False)
    assert flips([rule.see(now + 30 * 399 + wait) for wait in (1, 100, 149, 151)]) == [(0, False), (3, True)]


def checkpoint(number: int, error: str | None = None) -> CheckpointRecord:
    return CheckpointRecord(number, f"checkpoints/{number}", error, 0.0, 0.1, 1.0, 10, 5)


def test_checkpoints_that_fail_or_are_late() -> None:
    failed, late = CheckpointFailed(CONFIG), CheckpointLate(CONFIG)
    assert failed.see(checkpoint(100)) is None
    change = failed.see(checkpoint(200, "No space left on device"))
    assert change is not None and change.firing and "step 200 was not saved: No space left" in change.message
    assert failed.see(checkpoint(300, "No space left on device")) is None
    change = failed.see(checkpoint(400))
    assert change is not None and not change.firing
    late.due(100, 0.0)
    late.due(200, 500.0)
    assert late.see(599.0) is None
    change = late.see(601.0)
    assert change is not None and change.firing and "step 100" in change.message
    late.done(100)
    change = late.see(602.0)
    assert change is not None and not change.firing
    assert late.see(1099.0) is None
    change = late.see(1101.0)
    assert change is not None and change.firing and "step 200" in change.message
    late.done(200)
    assert late.see(1102.0) is not None
    assert late.see(9999.0) is None


# -- memory ------------------------------------------------------------------------------------------------------


def test_full_memory_and_its_end() -> None:
    rule = HighMemory(CONFIG)
    changes = [rule.see({"host memory": 0.5, "memory of device 0": share}) for share in (0.95, 0.951, 0.9, 0.86, 0.85)]
    assert flips(changes) == [(1, True), (4, False)]
    assert changes[1] is not None and changes[1].message == "95.1% of memory of device 0 is used"


def see_memory(*pieces: tuple[int, float], available: float = 20e9) -> list[tuple[int, bool]]:
    """(seconds, bytes a second) of each piece; what is available shrinks by what is taken."""
    rule, own, now, noise = MemoryRunsOut(CONFIG), 1e9, 0, np.random.default_rng(0)
    found = []
    for seconds, rate in pieces:
        for _ in range(seconds):
            now, own, available = now + 1, own + rate, available - rate
            change = rule.see(float(now), int(own + noise.normal(0, 1e6)), max(0, int(available)))
            if change:
                found.append((now, change.firing))
    return found


def test_a_leak_is_foretold_within_a_minute_and_its_end_seen() -> None:
    (began, firing), (ended, over) = see_memory((100, 0.0), (200, 40e6), (100, 0.0))
    assert firing and not over
    assert 100 < began <= 160
    assert 300 < ended <= 360
    assert see_memory((60, 20e6), available=20e9) == [(23, True)]


def test_growth_that_stops_or_is_slow_is_no_leak() -> None:
    assert see_memory((100, 0.0), (10, 500e6), (100, 0.0)) == []
    assert see_memory((600, 2e6)) == []  # 20 GB last for three hours
    assert see_memory((9000, 2e6))[0][0] > 7000  # and then they do not


@given(st.floats(-1e8, 1e8), st.integers(10, 60))
def test_growth_of_a_line_is_its_slope(slope: float, samples: int) -> None:
    times = np.arange(samples, dtype=np.float64)
    assert growth(times + 1e6, 1e9 + slope * times) == pytest.approx(slope, rel=1e-6, abs=1.0)


def test_even_experts_are_quiet() -> None:
    rule = ExpertImbalance(AlertsConfig(expert_warmup=0))
    assert not any(rule.see(number, (EVEN, EVEN)) for number in range(100))

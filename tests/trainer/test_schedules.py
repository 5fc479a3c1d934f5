"""Schedules at the paper's breakpoints, and their laws anywhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from trainer.schedules import (
    BatchRamp,
    Cosine,
    DeepSeekV3,
    LearningRate,
    Schedules,
    Shape,
    Steps,
    WarmupStableDecay,
    deepseek_v3,
    fraction_left,
)

T = 10**12
WARM = 10**6  # a step far beyond every warm-up

totals = st.integers(10**5, 20 * T)
rates = st.floats(1e-6, 1e-2)
shapes = st.sampled_from(["linear", "cosine", "sqrt"])


# -- the paper's numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [
        (0, 2.2e-4),
        (10 * T - 1, 2.2e-4),
        (10 * T, 2.2e-4),
        (12_150_000_000_000, 1.21e-4),  # half of the cosine
        (14_300_000_000_000, 2.2e-5),
        (14_632_999_999_999, 2.2e-5),
        (14_633_000_000_000, 7.3e-6),
        (14_800_000_000_000, 7.3e-6),
        (16 * T, 7.3e-6),
    ],
)
def test_v3_learning_rate(tokens: int, rate: float) -> None:
    assert deepseek_v3().at(WARM, tokens).learning_rate == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("step", "share"), [(0, 1 / 2000), (999, 0.5), (1999, 1.0), (2000, 1.0)])
def test_v3_warm_up_is_over_after_two_thousand_steps(step: int, share: float) -> None:
    assert deepseek_v3().at(step, 0).learning_rate == pytest.approx(2.2e-4 * share, rel=1e-12)


@pytest.mark.parametrize(
    ("tokens", "sequences"),
    [
        (0, 3072),
        (469_000_000_000 // 48, 3072),
        (469_000_000_000 // 48 + 1, 3328),
        (469_000_000_000 // 2, 9216),
        (468_999_999_999, 15104),
        (469_000_000_000, 15360),
        (14 * T, 15360),
    ],
)
def test_v3_batch_size(tokens: int, sequences: int) -> None:
    assert deepseek_v3().at(0, tokens).sequences == sequences


def test_v3_bias_speed_and_mtp_weight() -> None:
    v3 = deepseek_v3()
    speeds = [v3.at(0, tokens).bias_speed for tokens in (0, 14_300_000_000_000 - 1, 14_300_000_000_000, 15 * T)]
    assert speeds == [1e-3, 1e-3, 0.0, 0.0]
    assert [v3.at(0, tokens).mtp_weight for tokens in (0, 10 * T - 1, 10 * T, 15 * T)] == [0.3, 0.3, 0.1, 0.1]


@given(st.integers(10**6, 10**12), st.floats(0, 1.2))
def test_scaled_down_v3_is_v3_at_the_same_share(total: int, share: float) -> None:
    v3, small = deepseek_v3(), deepseek_v3(tokens=total)
    here, there = int(share * total), int(share * 14_800_000_000_000)
    # Breakpoints are whole tokens: not within one of them.
    for parts in (469, 10_000, 14_300, 14_633):
        assume(abs(here - parts * total / 14_800) > 2)
    one, other = small.at(WARM, here), v3.at(WARM, there)
    assert one.learning_rate == pytest.approx(other.learning_rate, rel=20 / total * 14.8, abs=2.2e-4 * 60 / total)
    assert (one.bias_speed, one.mtp_weight) == (other.bias_speed, other.mtp_weight)
    assert abs(one.sequences - other.sequences) <= 256


def test_steps_by_the_schedule_use_up_the_tokens() -> None:
    total = 2_000_000_000
    v3, tokens, step, sizes = deepseek_v3(tokens=total), 0, 0, set()
    while tokens < total:
        sizes.add(v3.at(step, tokens).sequences)
        tokens += v3.at(step, tokens).sequences * 64
        step += 1
    assert min(sizes) == 3072
    assert max(sizes) == 15360
    assert all(size % 256 == 0 for size in sizes)


# -- laws --------------------------------------------------------------------------------------------------------


@given(shapes, st.floats(-1, 2), st.floats(0, 1))
def test_a_decay_falls_from_one_to_nothing(shape: Shape, done: float, more: float) -> None:
    assert fraction_left(shape, 0.0) == 1.0
    assert fraction_left(shape, 1.0) == pytest.approx(0.0, abs=1e-30)
    assert 0.0 <= fraction_left(shape, done + more) <= fraction_left(shape, done) <= 1.0


@given(rates, rates, totals, st.integers(0, 30 * T))
def test_cosine_ends_exactly_and_stays_between(peak: float, end: float, total: int, tokens: int) -> None:
    cosine = Cosine(peak=peak, end=end, tokens=total, warmup_steps=0)
    assert cosine.at(0, 0) == peak
    assert cosine.at(0, total) == end
    assert min(peak, end) <= cosine.at(0, tokens) <= max(peak, end)
    if tokens >= total:
        assert cosine.at(0, tokens) == end


@given(rates, st.integers(0, T), st.integers(10**5, T), shapes, st.integers(0, 3 * T))
def test_wsd_holds_then_falls(peak: float, stable: int, decay: int, shape: Shape, tokens: int) -> None:
    wsd = WarmupStableDecay(
        peak=peak, end=peak / 10, stable_tokens=stable, decay_tokens=decay, shape=shape, warmup_steps=0
    )
    assert wsd.at(0, stable) == peak
    assert wsd.at(0, stable + decay) == peak / 10
    assert wsd.at(0, min(tokens, stable)) == peak
    assert wsd.at(0, tokens + 1) <= wsd.at(0, tokens)


@given(totals, st.integers(0, 25 * T))
def test_v3_never_rises_and_jumps_once(total: int, tokens: int) -> None:
    v3 = DeepSeekV3(tokens=total, warmup_steps=0)
    assert v3.at(0, tokens + 1) <= v3.at(0, tokens)
    last = 14_633 * total // 14_800
    if tokens + 1 != last:
        # Steepest in the middle of the cosine: pi/2 times its mean slope.
        slope = math.pi / 2 * (2.2e-4 - 2.2e-5) / (4_300 * total // 14_800)
        assert v3.at(0, tokens) - v3.at(0, tokens + 1) <= 1.01 * slope + 1e-15
    assert (v3.at(0, last - 1), v3.at(0, last)) == (pytest.approx(2.2e-5), 7.3e-6)


@given(st.integers(1, 5000), st.integers(0, 10_000))
def test_warm_up_rises_in_equal_steps(warmup: int, step: int) -> None:
    flat = WarmupStableDecay(peak=1.0, stable_tokens=T, decay_tokens=1, warmup_steps=warmup)
    assert flat.at(warmup - 1, 0) == 1.0
    assert 0 < flat.at(step, 0) <= 1.0
    assert flat.at(step + 1, 0) - flat.at(step, 0) == pytest.approx(1 / warmup if step + 1 < warmup else 0.0, abs=1e-12)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 256), totals, st.integers(0, 25 * T))
def test_batches_ramp_in_equal_rungs(multiple: int, low: int, more: int, total: int, tokens: int) -> None:
    ramp = BatchRamp(start=low * multiple, end=(low + more) * multiple, tokens=total, multiple=multiple)
    assert ramp.at(0) == ramp.start
    assert ramp.at(total) == ramp.end
    size = ramp.at(tokens)
    assert size % multiple == 0
    assert ramp.start <= size <= ramp.at(tokens + 1) <= ramp.end
    straight = ramp.start + (ramp.end - ramp.start) * min(tokens, total) / total
    assert straight - multiple - 1e-6 <= size <= straight + 1e-6


@given(st.lists(st.integers(1, T), min_size=1, max_size=5, unique=True), st.integers(0, 2 * T))
def test_steps_change_at_their_tokens(changes: list[int], tokens: int) -> None:
    changes.sort()
    steps = Steps(values=tuple(float(i) for i in range(len(changes) + 1)), tokens=tuple(changes))
    assert [steps.at(0, change - 1) + 1 for change in changes] == [steps.at(0, change) for change in changes]
    assert steps.at(0, tokens) <= steps.at(0, tokens + 1)


# -- configs -----------------------------------------------------------------------------------------------------


def test_a_schedule_is_read_by_its_kind() -> None:
    read = TypeAdapter(LearningRate).validate_json
    assert read('{"kind": "cosine", "peak": 3e-4, "tokens": 1000}') == Cosine(peak=3e-4, tokens=1000)
    assert isinstance(read('{"kind": "wsd", "peak": 1e-3, "stable_tokens": 5, "decay_tokens": 5}'), WarmupStableDecay)
    assert read('{"kind": "deepseek_v3"}') == deepseek_v3().learning_rate
    assert Schedules.model_validate_json(deepseek_v3().model_dump_json()) == deepseek_v3()


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        (Cosine, {"peak": 1e-3, "tokens": 10, "decay": 5}, "Extra inputs"),
        (Cosine, {"peak": "1e-3", "tokens": 10}, "valid number"),
        (Cosine, {"peak": -1.0, "tokens": 10}, "greater than or equal"),
        (Cosine, {"peak": float("nan"), "tokens": 10}, "finite"),
        (Cosine, {"peak": 1.0, "tokens": 0}, "greater than or equal"),
        (Steps, {"values": (1.0, 2.0), "tokens": ()}, "one number less"),
        (Steps, {"values": (1.0, 2.0, 3.0), "tokens": (5, 5)}, "must rise"),
        (BatchRamp, {"start": 8, "end": 18, "tokens": 10, "multiple": 4}, r"end \(18\) must be a multiple"),
        (BatchRamp, {"start": 16, "end": 8, "tokens": 10, "multiple": 4}, "less than start"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, raw: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        kind.model_validate(raw)

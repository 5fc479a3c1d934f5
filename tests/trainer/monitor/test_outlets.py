"""Alerts on their way out: a real HTTP server, a full disk, queues that fill; what is held back, and what is secret."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from schemas import yaml_config
from schemas.errors import Refused
from tests.trainer.monitor.conftest import SECRET, Server
from tests.trainer.monitor.records import step
from trainer.monitor.alerts import Alerts, Limiter
from trainer.monitor.config import AlertsConfig, Kind, MonitorConfig
from trainer.monitor.outlets import WAITING, Alert, Outlet, to_file, to_webhook, url_in
from trainer.monitor.system import SystemRecord


def alert(kind: Kind = Kind.LOSS_SPIKE, firing: bool = True, number: int = 7) -> Alert:
    return Alert(kind, firing, number, "2026-01-31T12:00:00Z", 0, 2.5, 2.0, "loss 10 is 2.50 times …")


def wait_for(true: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_webhook_gets_the_alert_as_json(server: Server) -> None:
    to_webhook(server.url, "runs/demo")(alert())
    [(path, kind, body)] = server.got
    assert (path, kind) == (f"/hook/{SECRET}", "application/json")
    assert body == {
        "run": "runs/demo",
        "kind": "LOSS_SPIKE",
        "state": "firing",
        "firing": True,
        "step": 7,
        "time": "2026-01-31T12:00:00Z",
        "process": 0,
        "value": 2.5,
        "threshold": 2.0,
        "message": "loss 10 is 2.50 times …",
        "suppressed": 0,
        "text": "[LOSS_SPIKE] step 7: loss 10 is 2.50 times …",
    }


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (429, 3), (404, 1), (302, 1)])
def test_what_may_pass_is_tried_again_and_what_fails_is_said_without_the_secret(
    server: Server, status: int, tries: int
) -> None:
    server.statuses = [status]
    said: list[str] = []
    outlet = Outlet("the webhook", to_webhook(server.url, "run", (0.01, 0.01)), said.append)
    outlet.put(alert())
    wait_for(lambda: said)
    assert said == [f"WARNING: alerts do not reach the webhook: HTTP status {status}; 1 lost"]
    assert [path for path, _, _ in server.got] == [f"/hook/{SECRET}"] * tries  # and no redirect is followed
    server.statuses = [503, 200]
    outlet.put(alert())
    outlet.put(alert())
    outlet.close(30)
    assert (outlet.delivered, outlet.lost, len(said)) == (2, 1, 1)


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:9/{SECRET}", f"http://{SECRET}.invalid/", f"http://127.0.0.1:9/{SECRET}\n/x", "x:"]
)
def test_no_failure_shows_the_url(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    outlet = Outlet("the webhook", to_webhook(url, "run", ()), said.append)
    outlet.put(alert())
    outlet.close(60)
    [sentence] = said
    assert sentence.startswith("WARNING: alerts do not reach the webhook: ")
    assert SECRET not in sentence + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "value",
    ["", SECRET, f"ftp://host/{SECRET}", f"https://me:{SECRET}@host/", f"http://host:{SECRET}/", f"http:///{SECRET}",
     f"http://host/{SECRET} x", f"http://[{SECRET}/"],
)  # fmt: skip
def test_a_url_that_cannot_be_posted_to_is_refused_at_the_start(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", value)
    with pytest.raises(Refused, match="HOOK") as refused:
        url_in("HOOK")
    assert SECRET not in str(refused.value)
    monkeypatch.setenv("HOOK", "https://hooks.example.org/services/a?b=c")
    assert url_in("HOOK").endswith("a?b=c")
    with pytest.raises(Refused, match="NONE is not set"):
        url_in("NONE")


def test_a_url_in_the_config_is_refused_without_showing_it() -> None:
    text = f"alerts: {{webhook: 'https://host/{SECRET}'}}".encode()
    with pytest.raises(Refused, match="is the name of an environment variable") as refused:
        yaml_config.parse_yaml(MonitorConfig, text, "run.yaml")
    assert SECRET not in str(refused.value)


def test_configs_are_read_and_checked() -> None:
    given = yaml_config.parse_yaml(MonitorConfig, b"{every: 5, alerts: {mute: [NO_STEP], webhook: HOOK}}", "run.yaml")
    assert given.alerts.mute == (Kind.NO_STEP,)
    assert yaml_config.parse_yaml(
        MonitorConfig, yaml_config.dump_yaml(given.model_dump(mode="json")).encode(), "x"
    ) == (given)
    for text, key in ((b"alerts: {loss_spike: 1}", "loss_spike"), (b"alerts: {mute: [NOISE]}", "mute"), (b"x: 1", "x")):
        with pytest.raises(Refused, match=key):
            yaml_config.parse_yaml(MonitorConfig, text, "run.yaml")


def test_an_outlet_that_hangs_holds_up_nobody(server: Server, tmp_path: Path) -> None:
    server.hold.clear()
    file, seen = tmp_path / "alerts.jsonl", list[str]()
    outlets = [
        Outlet("the webhook", to_webhook(server.url, "run"), lambda _: None),
        Outlet(str(file), to_file(file), seen.append),
    ]
    alerts = Alerts(AlertsConfig(interval=0), outlets)
    begun = time.perf_counter()
    for number in range(1, 10):
        alerts.on_step_end(step(number))
    for number in range(10, 1010):  # every fourth step begins one, and every fourth ends it
        alerts.on_step_end(step(number, norm=float("nan") if number % 4 == 0 else 0.5))
    assert time.perf_counter() - begun < 5
    # The file has them all, although the webhook still has the first.
    outlets[1].close(30)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) + outlets[1].lost == 499
    assert len(lines) > 1 and lines[0]["kind"] == "NON_FINITE"
    wait_for(lambda: server.got)
    assert len(server.got) == 1
    assert outlets[0].lost == 499 - 1 - WAITING
    begun = time.perf_counter()
    alerts.close(0.2)
    assert time.perf_counter() - begun < 3


def test_a_full_disk_is_said_once_and_ends_nothing() -> None:
    said: list[str] = []
    outlet = Outlet("/dev/full", to_file(Path("/dev/full")), said.append)
    outlet.put(alert())
    outlet.put(alert())
    outlet.close(30)
    assert said == ["WARNING: alerts do not reach /dev/full: No space left on device; 1 lost"]
    assert outlet.lost == 2


# -- how often ---------------------------------------------------------------------------------------------------


def test_one_of_a_kind_passes_in_an_interval_and_the_last_of_the_others_after_it() -> None:
    limiter = Limiter(30.0)
    first, end, again = alert(number=1), alert(firing=False, number=2), alert(number=3)
    assert limiter.see(first, 100.0) is first
    assert limiter.see(alert(Kind.NO_STEP), 100.0) is not None
    assert limiter.see(end, 101.0) is None
    assert limiter.see(again, 102.0) is None
    assert limiter.due(129.0) == []
    [held] = limiter.due(130.0)
    assert (held.step, held.firing, held.suppressed) == (3, True, 1)
    assert held.text.endswith("(1 more changes since the last message)")
    assert limiter.due(1000.0) == []
    assert limiter.see(end, 159.0) is None
    assert [each.step for each in limiter.due(159.0, last=True)] == [2]
    assert limiter.see(first, 189.0) is first
    # What is held back goes before what comes after, even when the interval is over.
    assert limiter.see(end, 190.0) is None
    assert limiter.see(again, 220.0) is None
    assert [(each.step, each.suppressed) for each in limiter.due(220.0)] == [(3, 1)]


class Kept(Outlet):
    """Keeps what it gets, at once."""

    def __init__(self) -> None:
        self.got: list[Alert] = []

    def put(self, alert: Alert) -> None:
        self.got.append(alert)

    def close(self, seconds: float) -> None:
        pass

    @property
    def kinds(self) -> list[tuple[str, bool]]:
        return [(each.kind.value, each.firing) for each in self.got]


@dataclass
class Time:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def machine(used: float, own: int = 10**9) -> SystemRecord:
    return SystemRecord(1, "now", 50.0, 10**11, int(used * 10**11), int((1 - used) * 10**11), own)


def test_other_processes_tell_of_their_own_and_muted_kinds_are_not_told() -> None:
    first, second, muted = Kept(), Kept(), Kept()
    everyone = [
        Alerts(AlertsConfig(), [first]),
        Alerts(AlertsConfig(), [second], process=1),
        Alerts(AlertsConfig(mute=(Kind.NON_FINITE,)), [muted]),
    ]
    for alerts in everyone:
        alerts.on_step_end(step(1, loss=float("nan")))
        alerts.sampled(machine(0.96))
    assert first.kinds == [("NON_FINITE", True), ("HIGH_MEMORY", True)]
    assert second.kinds == muted.kinds == [("HIGH_MEMORY", True)]
    assert second.got[0].text == "[HIGH_MEMORY] step 1, process 1: 96.0% of host memory is used"


def test_a_process_that_was_stopped_as_a_whole_is_not_a_hung_step() -> None:
    kept, clock = Kept(), Time()
    alerts = Alerts(AlertsConfig(interval=0), [kept], clock=clock)
    for number in range(1, 20):
        clock.now += 1
        alerts.on_step_end(step(number))
        alerts.tick()
    clock.now += 500  # SIGSTOP, and SIGCONT
    alerts.tick()
    for _ in range(44):
        clock.now += 1
        alerts.tick()
    assert kept.got == []
    for _ in range(5):
        clock.now += 1
        alerts.tick()
    assert kept.kinds == [("NO_STEP", True)]


def test_a_late_checkpoint_is_expected_where_the_config_says_so() -> None:
    kept, clock = Kept(), Time()
    alerts = Alerts(AlertsConfig(checkpoint_late=5, interval=0), [kept], checkpoint_every=3, clock=clock)
    for number in range(1, 10):
        clock.now += 1
        alerts.on_step_end(step(number))
        alerts.tick()
    assert kept.kinds == [("CHECKPOINT_LATE", True)]
    assert "step 3" in kept.got[0].message


def test_what_growth_there_is_before_the_first_step_is_no_leak() -> None:
    kept, clock = Kept(), Time()
    alerts = Alerts(AlertsConfig(), [kept], clock=clock)
    for second in range(120):
        clock.now += 1
        alerts.sampled(machine(0.5, own=second * 10**9))
    assert kept.got == []
    alerts.on_step_end(step(1))
    for second in range(120, 160):
        clock.now += 1
        alerts.sampled(machine(0.5, own=second * 10**9))
    assert kept.kinds == [("MEMORY_RUNS_OUT", True)]


def test_an_alert_that_goes_on_is_not_raised_again_after_a_resume() -> None:
    before, after = Kept(), Kept()
    alerts = Alerts(AlertsConfig(), [before])
    alerts.on_step_end(step(1, norm=float("inf")))
    state = json.loads(json.dumps(alerts.state(), allow_nan=False))
    again = Alerts(AlertsConfig(interval=0), [after])
    again.restore(state)
    again.restore({})  # of an older run: nothing is known, nothing is lost
    for number in range(2, 6):
        again.on_step_end(step(number, norm=float("inf") if number < 3 else 1.0))
    assert before.kinds == [("NON_FINITE", True)]
    assert after.kinds == [("NON_FINITE", False)]

"""docs/monitoring.md says what the code does."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from tests.test_docs import read, section, shown_default
from trainer.monitor.config import AlertsConfig, Kind, MonitorConfig
from trainer.monitor.outlets import Alert
from trainer.monitor.performance import PerformanceRecord
from trainer.monitor.system import SystemRecord


@pytest.mark.parametrize(("title", "model"), [("`monitor`", MonitorConfig), ("`monitor.alerts`", AlertsConfig)])
def test_every_key_and_default_is_documented(title: str, model: type[BaseModel]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S.*?) \| ", section(read("docs/monitoring.md"), title), re.MULTILINE)
    assert rows == [
        (name, "see below" if name == "alerts" else shown_default(field)) for name, field in model.model_fields.items()
    ]


def test_every_kind_is_documented() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", section(read("docs/monitoring.md"), "Alerts"), re.MULTILINE)
    assert rows == [kind.value for kind in Kind]


def test_every_field_is_documented() -> None:
    page = read("docs/monitoring.md")
    named = set(re.findall(r"`(\w+)`", page))
    for record in (PerformanceRecord, SystemRecord):
        assert set(record.__dataclass_fields__) - {"step", "time"} <= named, record
    fields = Alert(Kind.NO_STEP, True, 1, "", 0, None, 1.0, "").as_json().keys() - {"firing"}
    row = next(line for line in page.splitlines() if line.startswith("| `alerts.jsonl`"))
    assert fields == set(re.findall(r"`(\w+)`", row)) - {"firing", "ended"}

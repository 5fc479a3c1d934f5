"""docs/cache.md states the defaults of the code."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from loader.cache import Retry, ShardCache
from loader.cache.ahead import Ahead
from loader.cache.cache import PATIENCE, THREADS
from loader.cache.download import MISMATCHES
from loader.cache.fetch import REPORT
from schemas.gcs import TRANSIENT_STATUS
from tests.conftest import ROOT


def test_the_page_states_the_code() -> None:
    page = " ".join((ROOT / "docs/cache.md").read_text(encoding="utf-8").split())
    retry = Retry()
    for sentence in (
        f"| `threads` | {THREADS} |",
        f"| `patience` | {PATIENCE:g} s |",
        f"| `grace`, `slowest` | {retry.grace:g} s, {retry.slowest:.0f} B/s |",
        f"{retry.seconds(256 << 20):,.0f} s for 256 MiB",
        f"| `first`, `longest` | {retry.first:g} s, {retry.longest:g} s |",
        f"| `connect`, `read` | {retry.connect:g} s, {retry.read:g} s |",
        f"downloaded anew, {MISMATCHES} times in all",
        f"every {REPORT:g} s",
        f"HTTP {', '.join(str(status) for status in sorted(TRANSIENT_STATUS))};",
    ):
        assert sentence in page, sentence
    named = set(re.findall(r"`(\w+)`", page))
    knobs = set(inspect.signature(ShardCache).parameters) - {"url", "files"} | {field.name for field in fields(Retry)}
    assert knobs <= named
    assert "2 * max(concurrent, threads)" in inspect.getsource(ShardCache) and Ahead.__doc__

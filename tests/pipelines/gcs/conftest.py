"""The emulator behind a proxy that knows preconditions and faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas import objects
from schemas.retry import Retry
from tests.emulator import started
from tests.pipelines.gcs.proxy import Proxy


@pytest.fixture(scope="session")
def emulator() -> Iterator[int]:
    """The port of the emulator."""
    with started() as port:
        yield port


@pytest.fixture
def proxy(emulator: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What every client of the test, in this process and in its children, talks to."""
    proxy = Proxy(emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setattr(objects, "RETRY", Retry(grace=20.0, first=0.01, longest=0.05, connect=2.0, read=5.0))
    objects._client.cache_clear()
    yield proxy
    objects._client.cache_clear()
    proxy.close()

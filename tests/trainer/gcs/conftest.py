"""The emulator behind the proxy that the pipelines are tested with, and a folder of the bucket for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulator import BUCKET, wipe
from tests.pipelines.gcs.conftest import emulator, proxy

__all__ = ["emulator", "proxy"]


@pytest.fixture
def place(emulator: int) -> Iterator[str]:
    """A folder of the bucket, which is empty."""
    wipe(emulator)
    yield f"gs://{BUCKET}/checkpoints"
    wipe(emulator)

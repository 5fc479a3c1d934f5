"""A few examples of every fuzz target."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.targets import TARGETS

EXAMPLES = 25


@pytest.mark.parametrize("name", TARGETS)
def test_the_law_holds(name: str) -> None:
    TARGETS[name].test(EXAMPLES, 1 if os.environ.get("CI") else None)()

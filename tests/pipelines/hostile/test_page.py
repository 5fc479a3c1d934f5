"""The page on hostile input names tests that exist, and every test of this folder stands on it."""

from __future__ import annotations

import re

from tests.conftest import ROOT

TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)


def test_the_page_and_the_tests_name_each_other() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "hostile.md").read_text(encoding="utf-8")))
    everywhere = {name for path in ROOT.glob("tests/pipelines/**/*.py") for name in TEST.findall(path.read_text())}
    assert named <= everywhere
    files = ROOT.glob("tests/pipelines/hostile/test_[dcl]*.py")
    assert {name for path in files for name in TEST.findall(path.read_text())} <= named

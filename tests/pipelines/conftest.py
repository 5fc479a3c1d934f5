"""The tiny corpus and what the local runner makes of it: the truth other filesystems and runners are held to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus and its config in tiny/, and its run in run/. Shared by all tests."""
    folder = tmp_path_factory.mktemp("tiny_run")
    config = write_tiny(folder / "tiny")
    command = [sys.executable, "-m", "pipelines", "run", str(config), "--output", str(folder / "run")]
    made = subprocess.run([*command, "--direct_num_workers=1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder

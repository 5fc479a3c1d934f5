"""`checkpoints list|verify|prune|diff`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import Refused, TokenmillError
from tests.trainer.checkpoint.tiny import saved, state
from trainer.checkpoint.cli import add_commands, dispatch
from trainer.checkpoint.load import steps


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command"))
    return dispatch(parser.parse_args(["checkpoints", *map(str, arguments)]))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for step, loss in ((10, 1.0), (20, 2.0), (30, 1.5)):
        saved(tmp_path, step, state(step), {"validation_loss": loss, "at": {"step": step, "same": 1}})
    return tmp_path


def damage(directory: Path, step: int) -> None:
    path = directory / f"step-{step:08d}" / "process-00000-of-00001" / "float32" / "c" / "0"
    path.write_bytes(path.read_bytes()[:-1])


def test_list(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "step-00000040").mkdir()
    (directory / "quarantined-step-00000005").mkdir()
    (directory / "step-00000020" / "COMMIT.json").write_text("{}")
    assert run("list", directory) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[::3] == ["10", "1"]
    assert lines[2].split()[:2] == ["20", "damaged:"]
    assert lines[4].startswith("step-00000040: not committed")
    assert lines[5].startswith("quarantined-step-00000005: was found damaged")


def test_verify(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", directory) == 0
    damage(directory, 20)
    assert run("verify", directory) == 1
    assert "step-00000020: damaged" in capsys.readouterr().out
    assert run("verify", directory, "--step", 30) == 0
    assert steps(str(directory)) == [10, 20, 30]  # nothing was put aside
    for wrong in ((directory / "absent",), (directory, "--step", 31)):
        with pytest.raises(Refused):
            run("verify", *wrong)


def test_prune(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prune", directory, "--keep", 1, "--dry-run") == 0
    assert "step-00000020: would be deleted" in capsys.readouterr().out
    assert steps(str(directory)) == [10, 20, 30]
    assert run("prune", directory, "--keep", 1) == 0
    assert steps(str(directory)) == [10, 30]


def test_prune_trusts_no_damaged_checkpoint(directory: Path) -> None:
    damage(directory, 30)
    with pytest.raises(TokenmillError, match="nothing deleted"):
        run("prune", directory, "--keep", 1)
    assert steps(str(directory)) == [10, 20, 30]


def test_diff(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = directory / "step-00000010"
    assert run("diff", first, first) == 0
    assert capsys.readouterr().out == "the same, bit by bit\n"
    other = state(10)
    other["weights"][3, 4] += 1
    other["bias"][2] = np.nan
    del other["flags"]
    other["step"] = other["step"].astype(np.int32)
    saved(tmp_path / "other", 10, other, {"validation_loss": 1.0, "at": {"step": 11, "same": 1}})
    assert run("diff", first, tmp_path / "other" / "step-00000010") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "meta at.step: 10 -> 11",
        "bias: 1 elements differ, by up to nan",
        "flags: bool (6,) -> absent",
        "step: int64 (1,) -> int32 (1,)",
        "weights: 1 elements differ, by up to 1",
    ]
    with pytest.raises(Refused):
        run("diff", first, directory)

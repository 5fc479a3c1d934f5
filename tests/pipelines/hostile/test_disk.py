"""Output directories that run out of files, that cannot be written, and that two runs want at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.hostile.runs import ONE, check_whole, command, kept, neighbours, run, settings, the_error
from tests.pipelines.tiny import write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The path of a config of a few good files."""
    (tmp_path / "in").mkdir()
    for number, text in enumerate(neighbours(8500)):
        (tmp_path / "in" / f"{number:02d}.py").write_text(text)
    sources = {"code": [{"path": str(tmp_path / "in"), "format": "files"}]}
    return write_config(tmp_path / "config.yaml", settings(sources))


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts, and mounts again, a small filesystem with the options given; only root can."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(options: str) -> Path:
        if os.geteuid() != 0 or not shutil.which("mount"):
            pytest.skip("needs root and mount to make a small filesystem")
        again = "remount," if os.path.ismount(disk) else ""
        arguments = ["mount", "-t", "tmpfs", "-o", f"{again}{options}", "tmpfs", str(disk)]
        if subprocess.run(arguments, check=False, capture_output=True).returncode:
            pytest.skip("this machine does not let root mount")
        return disk

    yield mounted
    if os.path.ismount(disk):
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("files", [6, 8, 12])
def test_a_disk_without_room_for_another_file_is_one_sentence(config: Path, mount: Mount, files: int) -> None:
    """With 6 there is none for the work folder's first, with 8 for the log, with 12 for a unit's documents."""
    output = mount(f"size=32m,nr_inodes={files}") / "run"
    code, _, err = run(config, output)
    assert code == 1
    told = the_error(err)
    assert str(output) in told and "the disk is full" in told and "the same command" in told
    assert not (output / ".lock").exists() and not list(output.rglob(".tmp-*"))
    assert not list(output.rglob("manifest.json"))


@pytest.mark.slow
def test_a_run_on_a_disk_that_filled_up_goes_on_and_is_looked_at_read_only(config: Path, mount: Mount) -> None:
    output = mount("size=32m,nr_inodes=25") / "run"
    code, _, err = run(config, output)
    assert code == 1 and "the disk is full" in the_error(err)
    mount("size=32m,nr_inodes=10000")
    code, _, err = run(config, output)
    assert code == 0, err
    mount("ro,size=32m")
    check_whole(output)
    assert set(kept(output).values()) == set(neighbours(8500))
    assert command("status", output)[0] == command("explain", output, "03.py")[0] == 0
    code, _, err = command("report", output)
    assert code == 1 and "Read-only file system" in the_error(err)


@pytest.mark.parametrize("name", ["/dev/full", "/dev/full/run", "/dev/null"])
def test_a_device_is_no_output(config: Path, name: str) -> None:
    code, _, err = run(config, Path(name))
    assert code == 2 and f"{name}: cannot be made a folder" in the_error(err)


def test_an_output_whose_name_is_not_utf8_is_refused(config: Path, tmp_path: Path) -> None:
    code, _, err = command("run", config, "--output", os.fsencode(tmp_path / "caf") + b"\xe9", ONE)
    assert code == 2 and r"caf\xe9: the path is not UTF-8" in the_error(err)
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "in"]


@pytest.mark.slow
def test_of_two_runs_that_start_at_once_one_does_the_work(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pipelines", "run", str(config), "--output", str(output), ONE],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=120)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 2], told
    refused = next(err for process, err in zip(started, told, strict=True) if process.returncode == 2)
    assert "is at work here" in the_error(refused)
    check_whole(output)
    assert set(kept(output).values()) == set(neighbours(8500))

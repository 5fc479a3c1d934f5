"""Sources that change between listing and reading, that the system does not give, and that are no sources at all."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines.cli import main
from pipelines.sources import Slice, SourceChanged, list_entries, read_slices
from schemas.config import Source
from tests.conftest import ROOT
from tests.pipelines.hostile.runs import ONE, check_whole, kept, neighbours, rejected, run, settings, the_error
from tests.pipelines.tiny import write_config


def corpus(folder: Path) -> Path:
    """A tree of good files and the path of its config."""
    (folder / "in").mkdir()
    for number, text in enumerate(neighbours(8000)):
        (folder / "in" / f"{number:02d}.py").write_text(text)
    return write_config(folder / "config.yaml", settings({"code": [{"path": str(folder / "in"), "format": "files"}]}))


def run_while(config: Path, output: Path, change: Callable[[], None]) -> tuple[int, str]:
    """`run`, and `change` as soon as the sources are listed: the process that reads them is yet to be started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "run", str(config), "--output", str(output), ONE],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not (output / "plan" / "units.parquet").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)
    change()
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def test_a_fifo_in_the_place_of_an_input_is_one_sentence(tmp_path: Path) -> None:
    config, output, path = corpus(tmp_path), tmp_path / "run", tmp_path / "in" / "05.py"

    def change() -> None:
        path.unlink()
        os.mkfifo(path)  # whoever opens it to read waits for somebody who writes

    code, err = run_while(config, output, change)
    assert code == 1
    told = the_error(err)
    assert "05.py: no regular file any more" in told and "the listing no longer holds" in told and "--output" in told
    left = {path.name for path in output.rglob("*") if path.is_file() and ".work" not in path.parts}
    assert left == {"config.yaml", "units.parquet"}


def test_of_other_bytes_in_the_same_number_those_that_were_read_are_accounted_for(tmp_path: Path) -> None:
    config, output, path = corpus(tmp_path), tmp_path / "run", tmp_path / "in" / "05.py"
    other = path.read_text().swapcase()
    code, err = run_while(config, output, lambda: path.write_text(other) and None)
    assert code == 0, err
    assert kept(output)["05.py"] == other
    (unit,) = json.loads((output / "documents" / "code" / "manifest.json").read_text())["units"]
    digest = next(read["sha256"] for read in unit["inputs"] if read["path"] == "05.py")
    assert digest == hashlib.sha256(other.encode()).hexdigest()
    check_whole(output)


def test_a_file_that_shrinks_under_the_reader_gives_no_half_document(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 500_000, "n": number}) + "\n" for number in range(8)))
    source = Source(path=str(path), format="jsonl")
    root, (entry,), _ = list_entries(source)
    reading = read_slices(source, root, [Slice(entry.path, entry.size, 0, entry.size)])
    found = [next(reading)]
    os.truncate(path, 1_700_000)  # in the middle of the fourth line
    with pytest.raises(SourceChanged, match="expected"):
        for item in reading:
            found.append(item)
    assert {getattr(item, "data", None) for item in found} == {"x" * 500_000}


CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


def without_privileges() -> None:
    """Make the permissions of files bind this process even when it is root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if os.geteuid() == 0 and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")


def test_what_may_not_be_read_is_rejected(tmp_path: Path) -> None:
    config, output = corpus(tmp_path), tmp_path / "run"
    (tmp_path / "in" / "secret.py").write_text("x = 1\n")
    (tmp_path / "in" / "closed").mkdir()
    (tmp_path / "in" / "closed" / "inside.py").write_text("x = 1\n")
    for name in ("secret.py", "closed"):
        (tmp_path / "in" / name).chmod(0)
    try:
        code, _, err = run(config, output, before=without_privileges)
    except subprocess.SubprocessError:
        pytest.skip("root's privileges cannot be dropped here")
    finally:
        (tmp_path / "in" / "closed").chmod(0o700)
    assert code == 0, err
    assert rejected(output) == {"secret.py": "unreadable", "closed": "unreadable"}
    assert set(kept(output).values()) == set(neighbours(8000))
    check_whole(output)


def test_an_output_that_may_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    config = corpus(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    try:
        code, _, err = run(config, tmp_path / "closed" / "run", before=without_privileges)
    except subprocess.SubprocessError:
        pytest.skip("root's privileges cannot be dropped here")
    assert code == 2 and str(tmp_path / "closed") in the_error(err)
    assert not os.listdir(tmp_path / "closed")


def test_a_source_of_which_too_much_is_unreadable_is_one_sentence(tmp_path: Path) -> None:
    config = corpus(tmp_path)
    for name, data in {"a\x1b[31m.py": b"\0", "b.py": b"\xff", "c.py": b""}.items():
        (tmp_path / "in" / name).write_bytes(data)
    content = yaml.safe_load(config.read_text())
    del content["ingest"]
    code, _, err = run(write_config(config, content), tmp_path / "run")
    assert code == 1
    told = the_error(err)
    assert "2 of 15 documents of source" in told and "ingest.max_rejected_fraction = 0.1" in told
    assert "(rejects: binary 1, empty 1, not_utf8 1; unreadable first: " in told
    assert "b.py: not_utf8, invalid start byte at byte 0" in told and "\x1b" not in told


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "dangling"])
def test_a_source_that_is_no_source_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    path = tmp_path / "source"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": "source", "dangling": "nowhere"}[kind])
    config = write_config(tmp_path / "config.yaml", settings({"code": [{"path": str(path), "format": "files"}]}))
    assert main(["run", str(config), "--output", str(tmp_path / "run")]) == 2
    assert str(path) in the_error(capfd.readouterr().err)
    assert not (tmp_path / "run").exists()

"""A whole run on Dask: several worker processes, the local runner's bytes, workers killed while they write."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from tests.conftest import ROOT
from tests.pipelines.tiny import command, contents, tiny_config, write_config, write_tiny

WORKERS = 3
PARTS = "--dask_npartitions=6"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of ten units, its config, and its run by the local runner."""
    folder = tmp_path_factory.mktemp("dask")
    write_tiny(folder / "tiny")
    content = tiny_config(folder / "tiny")
    content["ingest"]["unit_bytes"] = 12_000
    config = write_config(folder / "config.yaml", content)
    subprocess.run(
        command(config, folder / "local", "--direct_num_workers=1"), cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with some worker processes."""
    code = (
        "import sys, distributed\n"
        "if __name__ == '__main__':\n"
        f"  c = distributed.LocalCluster(n_workers={WORKERS}, threads_per_worker=1, dashboard_address=None)\n"
        "  print(c.scheduler_address, flush=True)\n"
        "  sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None
    yield process.stdout.readline().strip()
    process.stdin.close()
    process.wait(60)


def writers(output: Path) -> Iterator[tuple[int, str]]:
    """(process, folder) of each file that is being written at this moment."""
    for folder, _, names in os.walk(output):
        for name in names:
            if found := re.match(r"\.tmp-[0-9a-f]+-(\d+)-", name):
                yield int(found[1]), str(Path(folder).relative_to(output))


def run_on(cluster: str, config: Path, output: Path, kill_in: tuple[str, ...] = ()) -> tuple[set[int], list[str]]:
    """The processes seen to write, and where one was killed; a driver or supervisor is never killed."""
    process = subprocess.Popen(
        command(config, output, "--runner=DaskRunner", f"--dask_client_address={cluster}", PARTS),
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen: set[int] = set()
    killed: list[str] = []
    while process.poll() is None:
        for writer, folder in writers(output):
            seen.add(writer)
            left = [name for name in kill_in if name not in killed]
            if left and re.match(left[0], folder) and is_worker(writer):
                os.kill(writer, signal.SIGKILL)
                killed.append(left[0])
        time.sleep(0.001)
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()
    return {writer for writer in seen if writer != process.pid}, killed


def is_worker(process: int) -> bool:
    """Whether a process is of the cluster, which starts its workers by multiprocessing."""
    try:
        return "multiprocessing" in Path(f"/proc/{process}/cmdline").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_workers_killed_in_mid_stage_change_no_byte(corpus: Path, cluster: str, tmp_path: Path) -> None:
    kills = ("documents/code", "tokens/", "shards/64")
    killed = run_on(cluster, corpus / "config.yaml", tmp_path / "run", kills)[1]
    assert contents(tmp_path / "run") == contents(corpus / "local")
    assert killed == list(kills)


def test_workers_share_the_work_and_the_bytes_are_the_same(corpus: Path, cluster: str, tmp_path: Path) -> None:
    content: Any = tiny_config(corpus / "tiny")
    content["ingest"]["unit_bytes"] = 12_000
    content["shard"]["shuffle"] = "runner"
    seen, _ = run_on(cluster, write_config(tmp_path / "config.yaml", content), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(corpus / "local")
    assert len(seen) >= WORKERS, "the work was one worker's"


def test_without_a_number_of_parts_it_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(corpus / "config.yaml"), "--output", str(tmp_path / "run"), "--runner=DaskRunner"]
    assert main(arguments) == 2
    assert "give --dask_npartitions" in capsys.readouterr().err
    assert main([*arguments, PARTS, "--dask_client_adress=x"]) == 2
    assert "unknown option --dask_client_adress" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

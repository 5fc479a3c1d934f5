"""A whole run through a Beam job server, as on Flink and Spark: submitted over gRPC, done by processes that share
nothing with the driver but the filesystem. The job server is Beam's own, and besides it the one that is named.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from tests.conftest import ROOT
from tests.pipelines.tiny import command, contents, tiny_config, write_config, write_tiny
from tests.trainer.mesh.launch import free_ports

GIVEN = os.environ.get("TOKENMILL_PORTABLE_OPTIONS")
"""Options of an engine to test on, such as `--runner=FlinkRunner --flink_job_server_jar=… --flink_master=[local]`."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of ten units, its config, and its run by the local runner."""
    folder = tmp_path_factory.mktemp("portable")
    write_tiny(folder / "tiny")
    content: Any = tiny_config(folder / "tiny")
    content["ingest"]["unit_bytes"] = 12_000
    content["shard"]["shuffle"] = "runner"
    config = write_config(folder / "config.yaml", content)
    subprocess.run(
        command(config, folder / "local", "--direct_num_workers=1"), cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[list[str]]:
    """Options for Beam's job server and a pool of workers, which are processes of their own."""
    with ExitStack() as stack:
        port_file = tmp_path / "port"
        stack.enter_context(
            started("apache_beam.runners.portability.local_job_service_main", "--port_file", str(port_file))
        )
        (pool_port,) = free_ports(1)
        pool = stack.enter_context(
            started("apache_beam.runners.worker.worker_pool_main", f"--service_port={pool_port}")
        )
        deadline = time.monotonic() + 60
        while not port_file.exists() or not listening(pool_port):
            assert time.monotonic() < deadline and pool.poll() is None
            time.sleep(0.05)
        yield [
            "--runner=PortableRunner", f"--job_endpoint=localhost:{port_file.read_text()}",
            "--environment_type=EXTERNAL", f"--environment_config=localhost:{pool_port}",
        ]  # fmt: skip


@contextmanager
def started(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended afterwards, with all it has started."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # a pool starts its workers as `python`
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env=os.environ | {"PATH": path},
    )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


def run_to_the_end(config: Path, output: Path, options: list[str]) -> None:
    done = subprocess.run(command(config, output, *options), cwd=ROOT, check=False, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()


def test_a_run_by_a_job_server_has_the_local_runners_bytes(corpus: Path, engine: list[str], tmp_path: Path) -> None:
    run_to_the_end(corpus / "config.yaml", tmp_path / "run", engine)
    assert contents(tmp_path / "run") == contents(corpus / "local")


@pytest.mark.slow
@pytest.mark.parametrize("done", ["documents/code/manifest.json", "tokens/code/manifest.json"])
def test_a_command_killed_while_its_job_runs_goes_on(
    corpus: Path, engine: list[str], tmp_path: Path, done: str
) -> None:
    config, output = corpus / "config.yaml", tmp_path / "run"
    first = subprocess.Popen(
        command(config, output, *engine), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    while not (output / done).exists():
        assert first.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert contents(output) != contents(corpus / "local")
    run_to_the_end(config, output, engine)
    assert contents(output) == contents(corpus / "local")


@pytest.mark.skipif(not GIVEN, reason="set TOKENMILL_PORTABLE_OPTIONS to the options of a Flink or Spark job server")
def test_a_run_on_the_given_engine_has_the_local_runners_bytes(corpus: Path, tmp_path: Path) -> None:
    run_to_the_end(corpus / "config.yaml", tmp_path / "run", shlex.split(GIVEN or ""))
    assert contents(tmp_path / "run") == contents(corpus / "local")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--runner=PortableRunner", "give --job_endpoint"),
        ("--runner=PortableRunner --job_endpoint=localhost:1", "give --environment_type"),
        ("--runner=FlinkRunner --flink_master=host:8081", "give --environment_type"),
        ("--runner=SparkRunner --spark_master_url=spark://host:7077", "give --environment_type"),
        ("--runner=FlinkRunner --flink_master=host:8081 --environment_type=DOCKER", "give --environment_config IMAGE"),
        ("--runner=FlinkRunner --environment_type=EXTERNAL", "give --environment_config HOST:PORT"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, says: str
) -> None:
    assert main(["run", str(corpus / "config.yaml"), "--output", str(tmp_path / "run"), *options.split()]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

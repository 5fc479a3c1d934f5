"""A training run with its view and its checkpoints on gs://: killed, gone on with, and the bits of one on a disk."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from schemas.errors import Refused
from schemas.lock import Lock
from tests.conftest import ROOT
from tests.emulator import BUCKET, client_of, stored, upload
from tests.pipelines.gcs.proxy import FAULTS, Proxy
from tests.pipelines.gcs.test_run import run as run_pipelines
from tests.pipelines.tiny import tiny_config, write_config, write_tiny
from tests.trainer.training.configs import content
from tests.trainer.training.test_resume import begun, logged, told, write
from trainer.checkpoint import open_step
from trainer.checkpoint.compare import compare
from trainer.checkpoint.load import steps
from trainer.exchange import read_model
from trainer.training.config import RunConfig, load_run_config
from trainer.training.loop import run

STEPS = 40
SHAPE = {"stop": {"steps": STEPS}, "validation": {"every": 20, "records": 8}}
SAVES = {"every": 4, "keep": 3}


def publish(emulator: int, view: Path) -> str:
    """The view in the bucket."""
    files = [path for path in view.iterdir() if path.is_file()]
    upload(emulator, {f"view/{path.name}": path.read_bytes() for path in files})
    return f"gs://{BUCKET}/view"


def remote(url: str, place: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """A config as YAML gives it: view and checkpoints in the bucket, all else below `folder`."""
    cache = {"directory": str(folder / "cache"), "bytes": 3_000_000}
    given: dict[str, Any] = {"cache": cache, "checkpoints": {"directory": place, **SAVES}, **SHAPE, **changes}
    return content(Path("view"), folder / "out", **given) | {"data": url}


def same(local: Path, output: Path, place: str, step: int) -> None:
    """The same state, and the same word of how it came about."""
    first, second = open_step(str(local / "checkpoints"), step), open_step(place, step)
    assert list(compare(first, second)) == []
    ignored = {"config", "environment", "monitor"}
    assert {k: v for k, v in first.meta.items() if k not in ignored} == {
        k: v for k, v in second.meta.items() if k not in ignored
    }
    assert logged(local) == logged(output)


@pytest.fixture(scope="module")
def whole(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on a disk that was never stopped."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run(RunConfig.model_validate(content(small_run / "shards/64", output, checkpoints=SAVES, **SHAPE)))
    return output


def test_killed_and_resumed_in_the_bucket(
    small_run: Path, whole: Path, proxy: Proxy, emulator: int, place: str, tmp_path: Path
) -> None:
    """Under `launch`, which sees what was saved; killed in a step and in a save; with faults of the network."""
    given = remote(publish(emulator, small_run / "shards/64"), place, tmp_path)
    path, output = write(tmp_path / "train.yaml", given), tmp_path / "out"
    faults = [*FAULTS] * 2
    kills, asked = iter(["step-00000016"]), itertools.count(1)

    def choose(kind: str, name: str) -> str:
        if not name.startswith("checkpoints/step"):
            return ""
        if kind == "put" and "step-00000016" in name and "/c/0" in name and next(kills, None):
            os.kill(int(worker()), signal.SIGKILL)
        return faults.pop() if faults and next(asked) % 4 == 0 else ""

    proxy.choose = choose
    process = begun(path, output, "launch", "--processes", "1")
    worker = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text
    end = time.monotonic() + 300
    while b'"kind": "checkpoint"' not in (output / "metrics.jsonl").read_bytes():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    os.kill(int(worker()), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.count("ended with signal SIGKILL") == 2 and next(kills, None) is None
    assert not faults
    starts = [line["step"] for line in told(output, "start")]
    assert len(starts) == 3 and 0 < starts[1] <= 12 == starts[2]
    same(whole, output, place, STEPS)
    assert steps(place) == steps(str(whole / "checkpoints"))
    assert {name.split("/")[0] for name in stored(emulator, "checkpoints/")} == {
        f"step-{step:08d}"
        for step in steps(place)  # no lock, nothing half written
    }
    assert not (output / "checkpoints").exists()
    # What was trained is found by the output's folder.
    model, _, origin = read_model(output, step=STEPS)
    assert origin == f"{place}/step-{STEPS:08d}"
    for one, other in zip(model.variables_in_order, read_model(whole)[0].variables_in_order, strict=True):
        assert (one.numpy() == other.numpy()).all()
    # Done is done: the same command trains and saves nothing more.
    before = len([request for request in proxy.requests if request.kind == "put" and "step-" in request.name])
    assert run(load_run_config(path)).progress.step == STEPS
    assert len([r for r in proxy.requests if r.kind == "put" and "step-" in r.name]) == before


def test_from_the_bucket_to_a_disk_and_back(
    small_run: Path, proxy: Proxy, emulator: int, place: str, tmp_path: Path
) -> None:
    """Where checkpoints lie may change between two starts, if they are copied; a damaged one is put aside."""
    view = small_run / "shards/64"
    short = {"stop": {"steps": 4}, "checkpoints": {"every": 2}}
    run(RunConfig.model_validate(content(view, tmp_path / "local", **short)))
    folder = tmp_path / "local/checkpoints"
    upload(
        emulator,
        {f"checkpoints/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()},
    )
    data = "checkpoints/step-00000004/process-00000-of-00001/float32/c/0"
    client_of(emulator).bucket(BUCKET).blob(data).upload_from_string(b"x" * len(stored(emulator, data)[""]))
    shutil.copytree(tmp_path / "local", tmp_path / "out")
    shutil.rmtree(tmp_path / "out/checkpoints")
    shutil.rmtree(tmp_path / "out/model")
    moved = content(view, tmp_path / "out", stop={"steps": 6}, checkpoints={"directory": place, "every": 2})
    run(RunConfig.model_validate(moved))
    start = told(tmp_path / "out", "start")[-1]
    assert start["step"] == 2 and "its sha256 is not that of its manifest" in start["quarantined"][0][1]
    run(RunConfig.model_validate(content(view, tmp_path / "local", **short | {"stop": {"steps": 6}})))
    same(tmp_path / "local", tmp_path / "out", place, 6)
    assert stored(emulator, "checkpoints/quarantined-step-00000004/COMMIT.json")


def test_two_runs_on_one_folder_of_checkpoints_are_refused(
    small_run: Path, proxy: Proxy, emulator: int, place: str, tmp_path: Path
) -> None:
    view = small_run / "shards/64"
    for folder in (place, str(tmp_path / "shared")):
        lock = Lock(folder, "another")
        lock.acquire()
        given = content(view, tmp_path / "out", checkpoints={"directory": folder})
        with pytest.raises(Refused, match=f"{folder}: run another .* is at work here"):
            run(RunConfig.model_validate(given))
        lock.release()
        assert not (tmp_path / "out/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"output": "gs://bucket/out"},
            ["output: ", "not a local folder", "checkpoints: {directory: gs://BUCKET/PREFIX}"],
        ),
        (
            {"checkpoints": {"directory": "s3://bucket/x"}},
            ["checkpoints.directory: ", "neither a local folder nor gs://"],
        ),
        ({"checkpoints": {"directory": "gs://"}}, ["checkpoints.directory: ", "neither a local folder nor gs://"]),
        ({"cache": {"directory": "cache", "bytes": 1}}, ["cache is of views on gs://, and data is "]),
    ],
)
def test_places_that_cannot_be_are_refused(changes: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "train.yaml", content(tmp_path / "view", tmp_path / "out") | changes)
    with pytest.raises(Refused) as caught:
        load_run_config(path)
    assert all(part in str(caught.value) for part in told)
    if "cache" not in changes:  # which the launcher leaves to the workers
        command = [sys.executable, "-m", "trainer", "launch", str(path), "--processes", "1"]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert made.returncode == 2 and all(part in made.stderr for part in told)


def test_prepared_in_the_bucket_and_trained_from_it(proxy: Proxy, emulator: int, place: str, tmp_path: Path) -> None:
    """All the way: pipelines from and to gs://, steps on what they wrote in two stages, saved there, too; and
    evaluations, which read the views through caches of their own beside those of the training.
    """
    write_tiny(tmp_path / "tiny")
    names = [path for path in (tmp_path / "tiny").rglob("*") if path.is_file()]
    upload(emulator, {str(path.relative_to(tmp_path)): path.read_bytes() for path in names})
    prepare = tiny_config(tmp_path / "tiny") | {
        "shard": {"sequence_lengths": [64, 128], "lanes": 2, "shard_bytes": 20_000}
    }
    sources = json.loads(json.dumps(prepare).replace(str(tmp_path), f"gs://{BUCKET}"))
    run_pipelines(write_config(tmp_path / "prepare.yaml", sources), f"gs://{BUCKET}/run")
    for name, data in stored(emulator, "run/").items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(data)

    def short(data: str, cache: dict[str, Any] | None) -> dict[str, Any]:
        schedules = {
            "learning_rate": {"kind": "constant", "value": 0.001},
            "batch_size": {"kind": "constant", "sequences": 4},
        }
        longer = {"name": "long", "data": f"{data}/128", "max_position_embeddings": 128, "schedules": schedules}
        return {
            "stop": {"steps": 4},
            "validation": {"every": 2, "records": 8},
            "evaluation": {"records": 6, "depths": 2, "samples": 2},
            "stages": (longer | {"cache": cache, "stop": {"steps": 2}},),
        }

    cache = {"directory": str(tmp_path / "cache"), "bytes": 3_000_000}
    away = short(f"gs://{BUCKET}/run/shards", cache) | {"checkpoints": {"directory": place, "every": 2}}
    run(RunConfig.model_validate(remote(f"gs://{BUCKET}/run/shards/64", place, tmp_path, **away)))
    here = short(str(tmp_path / "run/shards"), None) | {"checkpoints": {"every": 2}}
    run(RunConfig.model_validate(content(tmp_path / "run/shards/64", tmp_path / "local", **here)))
    same(tmp_path / "local", tmp_path / "out", place, 4)
    for name in ("evaluation", "stages/long/evaluation_begin", "stages/long/evaluation"):
        one, other = (
            json.loads((folder / f"{name}.json").read_text())["views"]
            for folder in (tmp_path / "local", tmp_path / "out")
        )
        assert [view["sequence_length"] for view in other] == [64, 128]
        assert [view["components"] for view in one] == [view["components"] for view in other]
        # The tokenizer of a run in the bucket is not read, so there are no keys that could be looked for.
        assert all("tokenizer is neither" in view["retrieval"]["reason"] for view in other)

"""Beam's metrics say what the manifests say, in this process and from workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import metrics
from pipelines.cli import main
from tests.pipelines.tiny import write_tiny

FOLDERS = {"ingest": "documents", "tokenize": "tokens"}


@pytest.mark.parametrize("workers", [1, 2])
def test_steps_count_what_the_manifests_hold(tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    config = write_tiny(tmp_path)
    (tmp_path / "code" / "broken.py").write_bytes(b"\xff")
    output = tmp_path / "run"
    assert main(["run", str(config), "--output", str(output), f"--direct_num_workers={workers}"]) == 0
    steps = json.loads((output / "run.json").read_bytes())["steps"]
    found = {
        stage: [json.loads(path.read_bytes()) for path in sorted((output / folder).glob("*/manifest.json"))]
        for stage, folder in FOLDERS.items()
    }
    for stage, wholes in found.items():
        files = [file for whole in wholes for file in whole["files"]]
        assert steps[stage]["bytes_written"] == sum(file["bytes"] for file in files)
        times = steps[stage]["task_ms"]
        assert times["tasks"] == sum(len(whole["units"]) for whole in wholes) == 3
        assert 0 <= times["min"] <= times["max"] <= times["sum"]
    inputs = [read for whole in found["ingest"] for unit in whole["units"] for read in unit["inputs"]]
    assert steps["ingest"]["documents"] == sum(whole["counts"]["documents_in"] for whole in found["ingest"]) == 61
    assert steps["ingest"]["bytes_read"] == sum(read["size"] for read in inputs)
    assert steps["ingest"]["rejects"] == 1
    assert steps["tokenize"]["tokens"] == sum(whole["counts"]["tokens"] for whole in found["tokenize"])
    law = json.loads((output / "shards" / "64" / "manifest.json").read_bytes())["conservation"]["tokens"]
    assert steps["shards 64 gather"]["tokens"] == law["in_records"] + law["repeated"]
    said = capfd.readouterr().err
    assert "ingest: 61 documents, 1 rejects, " in said and "3 tasks of " in said


def test_a_runner_without_metrics_is_no_failure() -> None:
    class Result:
        def metrics(self) -> None:
            raise NotImplementedError

    metrics.take()  # what runs in this process have left
    metrics.collect(Result())
    assert metrics.take() == {} and metrics.sentence([]) == ""

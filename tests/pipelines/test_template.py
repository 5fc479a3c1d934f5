"""The Flex Template's entry and its description."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.template import Drive, main, parser, run_arguments
from schemas.errors import TokenmillError
from tests.conftest import ROOT
from tests.pipelines.test_dataflow import GIVEN
from tests.pipelines.tiny import contents


def test_the_launched_job_drives_a_run(tiny_run: Path, tmp_path: Path) -> None:
    config, output = tiny_run / "tiny/config.yaml", str(tmp_path / "driven")
    options = "--beam_options=--direct_num_workers=1"
    assert main([f"--config={config}", f"--output={output}", "--stages=ingest,dedup", options]) == 0
    truth = contents(tiny_run / "run")
    assert contents(Path(output)) == {
        name: sha256 for name, sha256 in truth.items() if name.startswith(("config", "plan", "documents", "dedup"))
    }


def test_arguments_that_are_wrong_fail_the_launched_job_and_end_no_worker(tmp_path: Path) -> None:
    with pytest.raises(TokenmillError, match="exit code 2"):
        list(Drive().process(b"run\nx.yaml\n--output\nruns/x\n--stages\nbaking", str(tmp_path)))


def test_a_run_that_fails_fails_the_launched_job(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "flex_template.py"), f"--config={tmp_path}/absent.yaml"]
    made = subprocess.run([*command, f"--output={tmp_path}/run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode and "exit code 2" in made.stderr and "absent.yaml" in made.stderr


def test_the_runs_jobs_get_the_launched_jobs_place() -> None:
    from apache_beam.options.pipeline_options import PipelineOptions  # noqa: PLC0415

    rest = [*GIVEN, "--subnetwork=net", "--no_use_public_ips", "--template_location=gs://b/t", "--job_name=driver"]
    words = [
        "--config=gs://b/c",
        "--output=gs://b/r",
        "--stages=ingest",
        "--beam_options=--max_num_workers=9 --labels=a=b",
    ]
    parsed = parser().parse_args(words)
    assert run_arguments(parsed, PipelineOptions(rest)) == [
        "run", "gs://b/c", "--output", "gs://b/r", "--stages", "ingest", *GIVEN, "--subnetwork=net",
        "--no_use_public_ips", "--max_num_workers=9", "--labels=a=b",
    ]  # fmt: skip


def test_the_description_has_the_entrys_parameters() -> None:
    about = json.loads((ROOT / "flex_template.json").read_text())
    options = {action.dest: action.required for action in parser()._actions if action.dest != "help"}
    assert {one["name"]: not one.get("isOptional", False) for one in about["parameters"]} == options
    for one in about["parameters"]:
        for regex in one.get("regexes", []):
            re.compile(regex)

"""Every stage as a Dataflow job, without the cloud: what would be submitted, taken from a real run of each step."""

from __future__ import annotations

import base64
import bz2
import json
import re
import socket
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest

from pipelines import graph
from pipelines.attempt import RUNNERS
from pipelines.cli import main
from pipelines.jobs import Each, Run
from pipelines.runner import runner_and_options
from schemas.manifest import STAGES
from tests.conftest import ROOT
from tests.pipelines.tiny import config_of, context_of, tiny_config, write_config, write_tiny

IMAGE = "region-docker.pkg.dev/project/images/tokenmill:1"
GIVEN = [
    "--runner=DataflowRunner", "--project=project", "--region=europe-west4", "--temp_location=gs://bucket/temp",
    f"--sdk_container_image={IMAGE}",
]  # fmt: skip
LIMIT = 10_000_000  # bytes of a job's description


class Submitted:
    """A job as it would be submitted. steps: of the run; proto: the pipeline; environment: Dataflow's."""

    def __init__(self, steps: Any, job: Any) -> None:
        from apache_beam.runners.dataflow.internal import apiclient  # noqa: PLC0415

        self.steps, self.job, self.proto = steps, job, job.proto_pipeline
        self.environment = apiclient.Environment(
            packages=[], options=job.options, environment_version="8", proto_pipeline_staged_url="gs://bucket/p",
            proto_pipeline=job.proto_pipeline,
        ).proto  # fmt: skip

    @property
    def bytes(self) -> bytes:
        """All of it."""
        return self.proto.SerializeToString() + str(self.environment).encode() + self.job.json().encode()


def translate(run: Run, steps: Any) -> Submitted:
    """The Dataflow job of steps; nothing is sent."""
    found: list[Any] = []
    runner = beam.runners.create_runner("DataflowRunner")
    usual = type(runner).run_pipeline

    def keep(self: Any, *arguments: Any, **named: Any) -> Any:
        found.append(usual(self, *arguments, **named))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runner), "run_pipeline", keep)
        graph.run_graph(run, steps, [*GIVEN, "--dry_run=True", "--no_auth"], False)
    return Submitted(steps, found[0].job)


def in_the_bucket(step: Any, folder: Path) -> Any:
    """The step of a run whose sources lie in a bucket."""
    work = getattr(step, "work", None)
    if not hasattr(work, "config"):
        return step
    text = work.config.model_dump_json().replace(str(folder), "gs://bucket")
    return replace(step, work=replace(work, config=config_of(json.loads(text))))


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Submitted]]:
    """The jobs of all stages of a run with shuffle by the runner: each is translated, then done here."""
    folder = tmp_path_factory.mktemp("dataflow")
    write_tiny(folder)
    content = tiny_config(folder)
    content["shard"]["shuffle"] = "runner"
    found: list[Submitted] = []
    with pytest.MonkeyPatch.context() as patch:

        def both(run: Run, steps: Any, options: Any, small: bool) -> None:
            found.append(translate(Run("gs://bucket/run", run.run_id), [in_the_bucket(step, folder) for step in steps]))
            graph.run_graph(run, steps, options, small)

        for module in ("ingest", "tokenize", "dedup.job", "tokenizer.job", "shard.job"):
            patch.setattr(f"pipelines.{module}.run_steps", both)
        with context_of(config_of(content), folder / "run") as context:
            for stage in STAGES:
                RUNNERS[stage](context)
    yield found


def test_every_step_of_every_stage_is_there(submitted: list[Submitted]) -> None:
    names = [step.name for job in submitted for step in job.steps]
    assert names[0] == "ingest" and names[-1].startswith("shard") and "tokenize" in names and "train" in names
    for job in submitted:
        labels = {transform.unique_name for transform in job.proto.components.transforms.values()}
        for step in job.steps:
            wanted = step.name if isinstance(step, Each) else f"{step.name} receive"
            assert any(label == wanted or label.endswith(f"/{wanted}") for label in labels), (wanted, labels)
            if not isinstance(step, Each):
                assert any(f"{step.name} group" in label for label in labels)


def test_jobs_are_small_and_say_where_and_how_they_run(submitted: list[Submitted]) -> None:
    names = set()
    for job in submitted:
        assert len(job.bytes) < LIMIT / 20
        assert job.job.proto.type_.name == "JOB_TYPE_BATCH"
        names.add(job.job.proto.name)
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job.job.proto.name)
        labels = dict(job.job.proto.labels)
        assert labels["tokenmill-run"] == "test" and re.fullmatch(r"[a-z0-9-]{1,63}", labels["tokenmill-step"])
        (pool,) = job.environment.worker_pools
        assert [image.container_image for image in pool.sdk_harness_container_images] == [IMAGE]
        assert (pool.machine_type, pool.disk_size_gb, pool.num_threads_per_worker) == ("n2-standard-4", 50, 1)
        assert pool.autoscaling_settings.max_num_workers == 20
        assert {"use_runner_v2", "shuffle_mode=service"} <= set(job.environment.experiments)
        environments = job.proto.components.environments.values()
        assert all(not environment.dependencies for environment in environments), "something would be staged"
    assert len(names) == len(submitted)


def test_elements_are_coded_without_pickle_where_they_are_grouped(submitted: list[Submitted]) -> None:
    """A pickled key might come out otherwise elsewhere and split a group."""
    for job in submitted:
        parts = job.proto.components
        for transform in parts.transforms.values():
            if transform.spec.urn == "beam:transform:group_by_key:v1":
                (collection,) = transform.inputs.values()
                coder = parts.coders[parts.pcollections[collection].coder_id]
                key, value = (parts.coders[name] for name in coder.component_coder_ids)
                assert coder.spec.urn == "beam:coder:kv:v1" and key.spec.urn == "beam:coder:varint:v1"
                if "group" in transform.unique_name:
                    assert value.spec.urn == "beam:coder:kv:v1"
                    kinds = [parts.coders[name].spec.urn for name in value.component_coder_ids]
                    assert kinds == ["beam:coder:varint:v1", "beam:coder:bytes:v1"], kinds


def test_nothing_of_this_machine_is_in_a_job(submitted: list[Submitted], tmp_path_factory: Any) -> None:
    own = [ROOT, tmp_path_factory.getbasetemp(), Path.home(), socket.gethostname(), Path(np.__file__).parents[1]]
    for job in submitted:
        text = job.bytes
        for payload in re.findall(rb"[A-Za-z0-9+/=]{200,}", text):  # functions are base64 of compressed pickles
            text += _opened(payload)
        for word in map(str, own):
            if len(word) > 4:
                at = text.find(word.encode())
                assert at < 0, (word, text[max(at - 200, 0) : at + 200])


def _opened(payload: bytes) -> bytes:
    try:
        data = base64.b64decode(payload + b"=" * (-len(payload) % 4))
    except ValueError:
        return b""
    for unpack in (bz2.decompress, zlib.decompress):
        try:
            return unpack(data)
        except (OSError, ValueError, zlib.error):
            continue
    return data


def test_a_million_units_make_a_small_job() -> None:
    chosen = np.flatnonzero(np.random.default_rng(1).random(1_000_000) < 0.5).tolist()
    job = translate(Run("gs://bucket/run", "test"), [Each("ingest", chosen, print)])
    assert len(job.bytes) < 1_000_000
    assert [number for number, _ in graph._Numbers(chosen).process(None)] == chosen
    assert list(graph._Numbers([]).process(None)) == []


def test_what_the_command_line_gives_is_kept() -> None:
    _, options = runner_and_options(
        [*GIVEN, "--machine_type=c3-highmem-8", "--max_num_workers", "3", "--labels=team=data", "--job_name=corpus"],
        False, "label round 1", "abcd1234",
    )  # fmt: skip
    found = options.get_all_options()
    assert (found["machine_type"], found["max_num_workers"], found["disk_size_gb"]) == ("c3-highmem-8", 3, 50)
    assert found["labels"] == ["team=data", "tokenmill-run=abcd1234", "tokenmill-step=label-round-1"]
    assert re.fullmatch(r"corpus-label-round-1-abcd1234-[0-9a-f]{4}", found["job_name"])


@pytest.mark.parametrize(
    ("left_out", "changed", "told"),
    [
        ("--project", {}, "give --project"),
        ("--region", {}, "give --region"),
        ("--temp_location", {}, "give --temp_location"),
        ("--sdk_container_image", {}, "give --sdk_container_image"),
        ("", {"shuffle": "files"}, "set shard.shuffle to runner"),
        ("", {"path": "/data/src"}, "components.code.sources.0 = /data/src is a path of this machine"),
        ("", {"output": "/runs/x"}, "--output = /runs/x is a path of this machine"),
        ("", {"option": "--max_num_worker=3"}, "did you mean --max_num_workers?"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    left_out: str, changed: dict[str, str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tiny_config(tmp_path)
    content["shard"]["shuffle"] = changed.get("shuffle", "runner")
    for part in content["components"].values():
        part["sources"][0]["path"] = "gs://bucket/in"
    if "path" in changed:
        content["components"]["code"]["sources"][0]["path"] = changed["path"]
    config = write_config(tmp_path / "config.yaml", content)
    options = [word for word in GIVEN if not (left_out and word.startswith(left_out))]
    options += [changed["option"]] if "option" in changed else []
    assert main(["run", str(config), "--output", changed.get("output", "gs://bucket/run"), *options]) == 2
    assert told in capsys.readouterr().err

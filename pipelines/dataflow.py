"""Google Cloud Dataflow: what a run there must have, and worker settings that suit this work.

A run is several jobs, one after another: each is submitted when the one before is done, because what a job reads is
decided by what the last one wrote. The driver, which submits them and writes manifests, may run anywhere that reaches
the bucket.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from importlib.util import find_spec

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions

from schemas import storage
from schemas.config import Config
from schemas.errors import Refused
from schemas.gcs import SCHEME

DEFAULTS = {
    "machine_type": "n2-standard-4",  # a worker process a vCPU; `plan` says what one needs
    "disk_size_gb": "50",  # a file is written here before it is put
    "max_num_workers": "20",  # Dataflow's own limit is hundreds of machines
    "autoscaling_algorithm": "THROUGHPUT_BASED",
    "number_of_worker_harness_threads": "1",  # tasks are one thread's work, and memory is one task's
    "sdk_location": "container",  # nothing is installed at start
}
"""Options of every job that the command line does not give."""
EXPERIMENTS = (
    "use_runner_v2",
    "shuffle_mode=service",
    "disable_logging_submission_environment",  # it would send a list of what is installed here, with local paths
)


def check(options: PipelineOptions, directory: str, config: Config) -> None:
    """Refuse a run that cannot work there.

    Raises:
        Refused: an option is missing, or a path lies on this machine; names it and the way out.
    """
    runs = "--runner DataflowRunner"
    if find_spec("google.cloud.dataflow") is None:
        raise Refused(f"{runs}: Beam's part for Google Cloud is not installed; install tokenmill with the extra `gcp`")
    cloud = options.view_as(GoogleCloudOptions)
    for name in ("project", "region", "temp_location"):
        if not getattr(cloud, name):
            raise Refused(f"{runs}: give --{name}")
    if not options.view_as(WorkerOptions).sdk_container_image:
        raise Refused(
            f"{runs}: give --sdk_container_image, an image with this version of tokenmill that the project may pull "
            f"(the Dockerfile makes one)"
        )
    paths = {"--temp_location": cloud.temp_location, "--output": directory}
    paths |= {
        f"components.{name}.sources.{index}": source.path
        for name, component in config.components.items()
        for index, source in enumerate(component.sources)
    }
    paths |= {f"dedup.against ({name})": path for name, path in config.dedup.earlier().items()}
    for what, path in paths.items():
        if storage.is_local(path):
            raise Refused(f"{runs}: {what} = {path} is a path of this machine, which workers do not see; give gs://…")
    if not directory.startswith(SCHEME):
        raise Refused(f"{runs}: --output = {directory}: give gs://…")
    if config.shard.shuffle != "runner":
        raise Refused(
            f"{runs}: shard.shuffle = files is for one machine (each shard would read a piece of each unit's file); "
            f"set shard.shuffle to runner, which changes no byte"
        )


def configure(options: PipelineOptions, given: Sequence[str], name: str, run_id: str) -> PipelineOptions:
    """Options of one job: what the command line gives, `DEFAULTS`, a name of its own, and labels.

    name: of the job's first step; run_id: of the run. By the labels tokenmill-run and tokenmill-step costs are told
    apart.
    """
    words = [word.split("=")[0].removeprefix("--") for word in given if word.startswith("--")]
    extra = [f"--{key}={value}" for key, value in DEFAULTS.items() if key not in words]
    extra.append("--no_save_main_session")  # workers import tokenmill; what this process's main module holds is its own
    extra += [f"--experiments={experiment}" for experiment in EXPERIMENTS]
    step = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:30]
    extra += [f"--labels=tokenmill-run={run_id}", f"--labels=tokenmill-step={step}"]
    prefix = options.view_as(GoogleCloudOptions).job_name or "tokenmill"
    extra.append(f"--job_name={prefix[:20]}-{step}-{run_id}-{secrets.token_hex(2)}")
    return PipelineOptions([*given, *extra])

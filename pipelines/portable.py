"""Flink, Spark and every other engine behind a Beam job server (Beam calls it the portable runner).

Workers are processes of the SDK that the engine starts or finds: without an environment of ours they would have no
tokenmill, which Beam notices in the middle of the first job only. They must see the sources and the run directory under
the same paths: one machine, a shared filesystem, or gs://.
"""

from __future__ import annotations

import re

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
)

from schemas.errors import Refused

RUNNERS = ("FlinkRunner", "SparkRunner", "PortableRunner")


def check(options: PipelineOptions) -> None:
    """Refuse a run that cannot work there.

    Raises:
        Refused: no job server, or workers without tokenmill; names the option.
    """
    runner = options.get_all_options()["runner"]
    portable = options.view_as(PortableOptions)
    if runner == "PortableRunner" and not portable.job_endpoint:
        raise Refused("--runner PortableRunner: give --job_endpoint HOST:PORT, the address of a Beam job server")
    kind = portable.environment_type
    if kind is None and not _on_this_machine(options):
        raise Refused(
            f"--runner {runner}: give --environment_type, where the work is done: DOCKER (with --environment_config "
            f"IMAGE, an image with this version of tokenmill; the Dockerfile makes one), EXTERNAL (with "
            f"--environment_config HOST:PORT, of worker pools that run already), or LOOPBACK (in this process, for "
            f"trials)"
        )
    image = portable.environment_config or portable.lookup_environment_option("docker_container_image")
    if kind == "DOCKER" and not image:
        raise Refused(
            f"--runner {runner}: give --environment_config IMAGE, an image with this version of tokenmill (the "
            f"Dockerfile makes one): Beam's own has none"
        )
    pools = portable.environment_config or portable.lookup_environment_option("external_service_address")
    if kind == "EXTERNAL" and not pools:
        raise Refused(f"--runner {runner}: give --environment_config HOST:PORT, where a worker pool listens")


def _on_this_machine(options: PipelineOptions) -> bool:
    """Whether Beam starts a cluster for the job in this machine, for which its workers are this process."""
    runner = options.get_all_options()["runner"]
    if options.view_as(PortableOptions).job_endpoint:
        return False
    if runner == "FlinkRunner":
        return options.view_as(FlinkRunnerOptions).flink_master in ("[local]", "[auto]")
    return runner == "SparkRunner" and bool(
        re.fullmatch(r"local(\[.+\])?", options.view_as(SparkRunnerOptions).spark_master_url)
    )

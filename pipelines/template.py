"""The entry of the Dataflow Flex Template (flex_template.json): a job of one small worker, which drives a run.

A template launches one job, and a run is several, each submitted when the one before is done. So the job that is
launched does nothing but run the driver, as `python -m pipelines run` does anywhere else. When its worker is lost,
Dataflow does the work item anew elsewhere, and the run goes on from what is committed.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.cli import main as command_line
from pipelines.dataflow import EXPERIMENTS
from pipelines.runner import runner_and_options
from schemas.errors import TokenmillError
from schemas.lock import HEARTBEAT, STALE, is_stale, owner_of

PASSED_ON = (
    "project", "region", "temp_location", "sdk_container_image", "service_account_email", "network", "subnetwork",
)  # fmt: skip
"""Beam options of the launched job that the run's jobs get, too."""
DRIVER = {
    "machine_type": "e2-standard-4",
    "num_workers": "1",
    "max_num_workers": "1",
    "autoscaling_algorithm": "NONE",
    "number_of_worker_harness_threads": "1",
    "sdk_location": "container",
}


def parser() -> argparse.ArgumentParser:
    """The template's own parameters; flex_template.json describes the same ones."""
    found = argparse.ArgumentParser(prog="python -m pipelines.template", description=__doc__, allow_abbrev=False)
    found.add_argument("--config", required=True, help="the config, gs://…")
    found.add_argument("--output", required=True, help="the run directory, gs://…")
    found.add_argument("--stages", default="", help="comma-separated; default: all")
    found.add_argument("--beam_options", default="", help="more options for the run's jobs, as on a command line")
    return found


class Drive(beam.DoFn):
    """Runs the command line it is given; an element is its arguments. Raises TokenmillError when it did not exit 0."""

    def process(self, element: Any, output: str) -> Iterator[int]:
        """Run it, once no other run holds the directory: a lost worker's lock is stale a minute or two after it."""
        until = time.monotonic() + STALE + 2 * HEARTBEAT
        while (owner := owner_of(output)) is not None and not is_stale(owner) and time.monotonic() < until:
            time.sleep(HEARTBEAT)
        arguments = element.decode().split("\n")
        try:
            code = command_line(arguments)
        except SystemExit as stop:  # arguments it does not know; a worker must not end for it
            code = int(stop.code or 0)
        if code:
            raise TokenmillError(f"{shlex.join(arguments)}: exit code {code}; the worker's log has the reason")
        yield code


def run_arguments(parsed: argparse.Namespace, options: PipelineOptions) -> list[str]:
    """The command line of the run: the launched job's runner and place, and what `--beam_options` adds."""
    given = options.get_all_options(drop_default=True)
    arguments = ["run", parsed.config, "--output", parsed.output]
    if parsed.stages:
        arguments += ["--stages", parsed.stages]
    if given.get("runner"):
        arguments.append(f"--runner={given['runner']}")
    arguments += [f"--{name}={given[name]}" for name in PASSED_ON if given.get(name)]
    if given.get("use_public_ips") is False:
        arguments.append("--no_use_public_ips")
    return arguments + shlex.split(parsed.beam_options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch the driver's job."""
    parsed, rest = parser().parse_known_args(arguments)
    options = PipelineOptions(rest)
    inner = run_arguments(parsed, options)
    runner: Any = options.get_all_options()["runner"]
    if runner == "DataflowRunner":
        words = [word.split("=")[0].removeprefix("--") for word in rest]
        rest = [*rest, *(f"--{key}={value}" for key, value in DRIVER.items() if key not in words)]
        rest += ["--no_save_main_session", *(f"--experiments={name}" for name in EXPERIMENTS)]
        options = PipelineOptions(rest)
    else:
        runner, options = runner_and_options(rest, True)
    pipeline = beam.Pipeline(runner=runner, options=options)
    command = "\n".join(inner).encode()
    _ = pipeline | beam.Create([command]) | "drive" >> beam.ParDo(Drive(), parsed.output)
    result = pipeline.run()
    if "template_location" not in options.get_all_options(drop_default=True):  # else only the graph was made
        result.wait_until_finish()
    return 0

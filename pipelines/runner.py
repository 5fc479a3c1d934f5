"""Which Beam runner carries out a run, with which options and how many local workers."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines import portable, workers
from schemas.config import Config
from schemas.errors import Refused

DASK = "DaskRunner"
_OWN = ("output", "stages", "replace_from")  # options of the command itself


def check_options(options: Sequence[str]) -> None:
    """Refuse options that cannot work.

    Raises:
        Refused: threads were asked for, with which Beam's local runner was seen to lose data; or the runner has no such
            option (Beam itself would pass over it).
    """
    parsed = PipelineOptions(list(options))
    if parsed.get_all_options()["runner"] == DASK:
        from pipelines import dask  # noqa: PLC0415

        dask.partitions(parsed)
    known = parsed.get_all_options()
    if (known["runner"] or "FnApiRunner") in ("DirectRunner", "FnApiRunner", "DataflowRunner", DASK):
        for name in sorted(parsed.get_all_options(retain_unknown_options=True).keys() - known.keys()):
            close = difflib.get_close_matches(name, [*_OWN, *known], n=1)
            meant = f"; did you mean --{close[0].replace('_', '-') if close[0] in _OWN else close[0]}?" if close else ""
            raise Refused(f"unknown option --{name}{meant}")
    if any("multi_threading" in option for option in options):
        raise Refused(
            "--direct_running_mode=multi_threading: Beam's local runner was seen to lose data in this mode; "
            "use multi_processing"
        )


def check_cluster(options: Sequence[str], directory: str, config: Config) -> None:
    """Refuse a run whose runner's workers would not have what they need.

    Raises:
        Refused: names the option or path, and the way out.
    """
    parsed = PipelineOptions(list(options))
    if parsed.get_all_options()["runner"] == "DataflowRunner":
        from pipelines import dataflow  # noqa: PLC0415

        dataflow.check(parsed, directory, config)
    if parsed.get_all_options()["runner"] in portable.RUNNERS:
        portable.check(parsed)


def runner_and_options(
    arguments: Sequence[str], small: bool, name: str = "", run_id: str = ""
) -> tuple[Any, PipelineOptions]:
    """The runner and options for Beam arguments. name, run_id: what a cluster's job is called by.

    Without `--runner` (or with DirectRunner) it is Beam's own FnApiRunner: the DirectRunner would first try to download
    another one. By default it has one worker process a core, or, where the work is small, none but the driver: starting
    workers takes longer then than they save. Several workers are always processes.
    """
    options = PipelineOptions(list(arguments))
    named = options.get_all_options()["runner"] or "FnApiRunner"
    if named == "DataflowRunner":
        from pipelines import dataflow  # noqa: PLC0415

        return named, dataflow.configure(options, arguments, name, run_id)
    if named == DASK:
        from pipelines import dask  # noqa: PLC0415

        return dask.runner(), options
    if named in portable.RUNNERS:
        # Workers import what they run; what this process's main module holds is its own.
        return named, PipelineOptions([*arguments, "--no_save_main_session"])
    if named not in ("DirectRunner", "FnApiRunner"):
        return named, options
    direct = options.view_as(DirectOptions)
    if not any(argument.split("=")[0] == "--direct_num_workers" for argument in arguments):
        direct.direct_num_workers = 1 if small else os.cpu_count() or 1
    if not any(argument.split("=")[0] == "--direct_running_mode" for argument in arguments):
        direct.direct_running_mode = "in_memory" if direct.direct_num_workers == 1 else "multi_processing"
    workers.use_forks()
    return FnApiRunner(), options

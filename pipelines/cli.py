"""`python -m pipelines COMMAND`: the commands of data preparation. Exit codes: 0 done, 1 failed, 2 refused."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.errors import Refused, TokenmillError
from schemas.manifest import STAGES, Stage

if TYPE_CHECKING:
    from schemas.config import Config

_RUN_EPILOG = """\
The stages, in order: ingest, dedup, tokenizer, tokenize, shard. What is done is skipped, so the same command goes on
after a kill or a crash. All other options go to Beam, for example:
  --direct_num_workers 4      local worker processes (default: one a core; 1 runs in this process alone)
  --runner DataflowRunner --project P --region R --temp_location gs://B/tmp --sdk_container_image IMAGE
  --runner DaskRunner --dask_client_address tcp://HOST:8786 --dask_npartitions 64
  --runner FlinkRunner --flink_master HOST:8081 --environment_type DOCKER --environment_config IMAGE
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="do what is not yet done of a config's stages",
        description="Turn the config's sources into shards below --output.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_target(run)
    run.add_argument("--stages", type=_stages, default=list(STAGES), help="comma-separated; default: all")

    tokenizer = commands.add_parser(
        "tokenizer",
        help="run the stages up to the tokenizer",
        description="Train the config's tokenizer on a mixture sample of its deduplicated documents, or check and copy "
        "a given one, to DIR/tokenizer/. The same as `run --stages ingest,dedup,tokenizer`.",
        allow_abbrev=False,
    )
    _add_target(tokenizer)

    validate = commands.add_parser("validate", help="check a config and list what it would read; writes nothing")
    validate.add_argument("config", metavar="CONFIG", help="a YAML file")

    plan = commands.add_parser(
        "plan",
        help="what a run would cost: time, memory, machines, bytes, shards",
        description="Do every stage on a sample of the config's units, in a temporary folder of this machine, and say "
        "by proportion what the whole run would cost. Writes nothing else.",
    )
    plan.add_argument("config", metavar="CONFIG", help="a YAML file")
    plan.add_argument("--sample", type=float, default=32, metavar="MB", help="input to measure on (default: 32)")
    plan.add_argument("--hours", type=float, default=24, help="the time a run may take (default: 24)")
    plan.add_argument("--vcpus", type=int, default=4, help="of one machine (default: 4)")
    plan.add_argument("--hosts", type=int, default=1, help="that will read the views in training (default: 1)")
    plan.add_argument("--json", action="store_true", help="print JSON")

    status = commands.add_parser("status", help="what of a run is done and what is next")
    status.add_argument("directory", metavar="DIR", help="a run directory")

    explain = commands.add_parser("explain", help="what became of a document or an input file, and why")
    explain.add_argument("directory", metavar="DIR", help="a run directory")
    what = explain.add_mutually_exclusive_group(required=True)
    what.add_argument("what", metavar="PATH|ID", nargs="?", help="a source path, or a document id such as code/3/17")
    what.add_argument(
        "--a-drop", action="store_true", help="a document that was dropped as a near-duplicate, as an example"
    )
    explain.add_argument("--json", action="store_true", help="print JSON")

    report = commands.add_parser(
        "report",
        help="write DIR/report.html: mixture, funnel, duplicates, rules, time",
        description="Write DIR/report.html, one page without scripts that needs no network. Of a run that is not "
        "finished it says what is missing.",
    )
    report.add_argument("directory", metavar="DIR", help="a run directory")
    return top


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="a YAML file")
    command.add_argument("--output", required=True, metavar="DIR", help="the run directory: local, gs://, …")
    command.add_argument(
        "--replace-from",
        choices=STAGES,
        metavar="STAGE",
        help="delete this stage's outputs and all later ones first",
    )


def _stages(text: str) -> list[Stage]:
    names = text.split(",")
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown stage {unknown[0]!r} (stages: {', '.join(STAGES)})")
    return [stage for stage in STAGES if stage in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    command_line = parser()
    parsed, rest = command_line.parse_known_args(arguments)
    if rest and parsed.command not in ("run", "tokenizer"):
        command_line.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return _dispatch(parsed, rest)
    except TokenmillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is done", file=sys.stderr)
        return 1


def read_config_file(path: str) -> Config:
    """The config at a local or remote path. Raises Refused when it is absent or not valid."""
    from schemas import storage  # noqa: PLC0415
    from schemas.config import load_config, parse_yaml  # noqa: PLC0415

    if storage.is_local(path):
        return load_config(path)
    try:
        return parse_yaml(storage.read_bytes(path), path)
    except FileNotFoundError:
        raise Refused(f"{path}: there is no such object") from None


def _dispatch(parsed: argparse.Namespace, beam_options: list[str]) -> int:
    # Imported here: Beam takes a second to load, which --help and argument errors need not wait for. Without its gcp
    # extra it warns at each import that there is none.
    logging.getLogger().setLevel(logging.ERROR)
    if parsed.command == "validate":
        from pipelines.reports import validate  # noqa: PLC0415

        return validate(parsed.config)
    if parsed.command == "plan":
        from pipelines.estimate.report import run_plan  # noqa: PLC0415

        sample = round(parsed.sample * 1e6)
        config = read_config_file(parsed.config)
        return run_plan(config, parsed.hosts, parsed.hours, parsed.vcpus, sample, parsed.json)
    if parsed.command == "status":
        from pipelines.reports import status  # noqa: PLC0415

        return status(parsed.directory)
    if parsed.command == "explain":
        from pipelines.explain import a_drop, run_explain  # noqa: PLC0415

        return run_explain(parsed.directory, parsed.what or a_drop(parsed.directory), parsed.json)
    if parsed.command == "report":
        from pipelines.report import write_report  # noqa: PLC0415

        print(write_report(parsed.directory))
        return 0
    from pipelines.run import run  # noqa: PLC0415

    stages: list[Stage] = parsed.stages if parsed.command == "run" else ["ingest", "dedup", "tokenizer"]
    config = read_config_file(parsed.config)
    if not run(config, parsed.output, stages, parsed.replace_from, beam_options):
        print(f"{parsed.output}: nothing to do, everything is there")
    return 0

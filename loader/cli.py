"""`python -m loader COMMAND`: look at prepared data. Exit codes: 0 done, 1 failed or not sound, 2 refused."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from loader.locate import locate
from loader.lookup import add_lookup_commands
from schemas.errors import Refused, TokenmillError

_PATH = "a run directory, a view such as RUN/shards/4096, or a manifest.json"
_JSON = "print one JSON object"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m loader", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser(
        "inspect",
        help="what is in there, from the manifests alone",
        description="Splits, components, tokens, mixture, removed documents by reason, sizes: from manifests alone.",
    )
    verify = commands.add_parser(
        "verify",
        help="check every file, record and count against each other",
        description="Hash every file, read every record again, and count documents and tokens anew from the files.",
    )
    for command, run in ((inspect, _inspect), (verify, _verify)):
        command.add_argument("path", metavar="PATH", help=_PATH)
        command.add_argument("--json", action="store_true", help=_JSON)
        command.set_defaults(run=run)
    add_lookup_commands(commands, _JSON)
    bench = commands.add_parser(
        "bench",
        help="how fast this machine reads a view",
        description="Read a view for a few seconds as one host would: tokens and bytes a second, with tokens alone and "
        "with all fields, and the time to the first batch at position 0 and in the middle. Needs TensorFlow.",
    )
    bench.add_argument("path", metavar="PATH", help="a view such as RUN/shards/4096, or its manifest.json")
    bench.add_argument("--global-batch", type=int, default=64, metavar="B", help="records of a batch (64)")
    bench.add_argument("--json", action="store_true", help=_JSON)
    bench.set_defaults(run=_bench)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        return code
    except TokenmillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1


def _inspect(parsed: argparse.Namespace) -> int:
    # Commands are imported when they run: `inspect` answers at once, without what verification needs.
    from loader.inspect import inspect  # noqa: PLC0415

    facts = inspect(locate(parsed.path))
    if parsed.json:
        print(json.dumps(facts, indent=1))
        return 0
    from rich.console import Console  # noqa: PLC0415

    from loader.tables import show  # noqa: PLC0415

    show(facts, Console(soft_wrap=False))
    return 0


def _bench(parsed: argparse.Namespace) -> int:
    if find_spec("tensorflow") is None:
        raise Refused("bench reads with TensorFlow, which is not here; install tokenmill with the extra `loader`")
    from loader.bench import bench, bench_lines  # noqa: PLC0415

    facts = bench(parsed.path, parsed.global_batch)
    print(json.dumps(facts, indent=1) if parsed.json else "\n".join(bench_lines(facts)))
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    from loader.progress import Progress  # noqa: PLC0415
    from loader.verify import verify  # noqa: PLC0415

    found = verify(locate(parsed.path), Progress())
    if parsed.json:
        print(json.dumps(found.facts(), indent=1))
    else:
        print("\n".join(found.lines()))
    return 0 if found.sound else 1

"""The commands `show`, `trace`, `find` and `stats`: their options, and what they print.

What they run is imported when they run, so that `--help` and the other commands do not wait for it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from loader.locate import locate
from schemas.errors import Refused

if TYPE_CHECKING:
    from loader.slots import Slot
    from loader.view import View

_PATH = "a run directory, a view such as RUN/shards/4096, or a view's manifest.json"
_WHICH = """\
Which record: --position N (default 0); --step S --global-batch B --row R, row R of the S-th batch of B records;
--shard FILE --row R, any record of the view; --validation COMPONENT --row R, the R-th held-out record of a component.
Everything is counted from 0. With several hosts, R is the row of the global batch."""


def add_lookup_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], json_help: str) -> None:
    """Add the four commands to the command line."""
    show = commands.add_parser(
        "show",
        help="one record as text, with its documents, sources and special tokens",
        description="Print a record as text: documents with id, source and span, special tokens marked. " + _WHICH,
    )
    trace = commands.add_parser(
        "trace",
        help="from a position or a batch's row, and a token in it, back to the source documents",
        description="Tell which shard, row and documents a record is, and where in its source one token stands. "
        + _WHICH,
    )
    find = commands.add_parser(
        "find",
        help="every record that holds a document",
        description="List every record that holds tokens of a document, train and validation, repeats too; of a "
        "document in none, tell why, as far as the run's files lie beside the view.",
    )
    stats = commands.add_parser(
        "stats",
        help="tokens, distinct tokens, documents and padding of sampled records",
        description="Statistics of sampled records by split and component. Only the sampled records are read.",
    )
    for command in (show, trace):
        which = command.add_argument_group("which record")
        which.add_argument("--position", type=int, metavar="N", help="position in the training order, in any epoch")
        which.add_argument("--step", type=int, metavar="S", help="global batch, batches being read from position 0 on")
        which.add_argument("--global-batch", type=int, metavar="B", help="records of a global batch")
        which.add_argument("--shard", metavar="FILE", help="a shard's file name, such as train-00000-of-00064.tfrecord")
        which.add_argument("--validation", metavar="COMPONENT", help="the validation split of a component")
        which.add_argument("--row", type=int, metavar="R", help="row of the batch, the shard or the validation split")
        command.add_argument(
            "--tokenizer", metavar="MODEL", help="the tokenizer.model to read ids with (default: the run's)"
        )
    show.add_argument("--tokens", action="store_true", help="show ids; with --json, give them too")
    trace.add_argument("--token", type=int, metavar="T", help="a token of the record, counted from 0")
    of = find.add_mutually_exclusive_group(required=True)
    of.add_argument(
        "--path", dest="source", metavar="P", help="a source as `show` prints it, or the end of one after a / or #"
    )
    of.add_argument("--document", metavar="ID", help="a document's id, COMPONENT/UNIT/ROW")
    stats.add_argument("--samples", type=int, default=1000, metavar="N", help="records of a component and split (1000)")
    stats.add_argument("--seed", type=int, default=0, metavar="SEED", help="chooses the records (0)")
    for command, run in ((show, _show), (trace, _trace), (find, _find), (stats, _stats)):
        command.add_argument("path", metavar="PATH", help=_PATH)
        command.add_argument("--view", type=int, metavar="LENGTH", help="the view of a run that has several")
        command.add_argument("--json", action="store_true", help=json_help)
        command.set_defaults(run=run)


def _show(parsed: argparse.Namespace) -> int:
    from loader.show import show, show_lines  # noqa: PLC0415
    from loader.vocabulary import vocabulary_of  # noqa: PLC0415

    view = _view(parsed)
    facts = show(view, _slot(view, parsed), vocabulary_of(view, parsed.tokenizer), parsed.tokens)
    return _print(parsed, facts, show_lines(facts, parsed.tokens))


def _trace(parsed: argparse.Namespace) -> int:
    from loader.trace import trace, trace_lines  # noqa: PLC0415
    from loader.vocabulary import vocabulary_of  # noqa: PLC0415

    view = _view(parsed)
    vocabulary = vocabulary_of(view, parsed.tokenizer) if parsed.token is not None else None
    facts = trace(view, _slot(view, parsed), vocabulary, parsed.token)
    return _print(parsed, facts, trace_lines(facts))


def _find(parsed: argparse.Namespace) -> int:
    from loader.find import find_documents, find_lines, find_path  # noqa: PLC0415

    view = _view(parsed)
    found = find_path(view, parsed.source) if parsed.source is not None else find_documents(view, [parsed.document])
    facts = {"view": str(view.folder), "documents": found}
    return _print(parsed, facts, (line for document in found for line in find_lines(document)))


def _stats(parsed: argparse.Namespace) -> int:
    from loader.stats import stats_facts, stats_lines  # noqa: PLC0415

    facts = stats_facts(_view(parsed), parsed.samples, parsed.seed)
    return _print(parsed, facts, stats_lines(facts))


def _view(parsed: argparse.Namespace) -> View:
    from loader.view import open_view  # noqa: PLC0415

    return open_view(locate(parsed.path), parsed.view)


def _slot(view: View, parsed: argparse.Namespace) -> Slot:
    """The record the options name. Raises Refused when they name none, or more than one."""
    from loader import slots  # noqa: PLC0415

    names = ("position", "step", "global_batch", "shard", "validation", "row")
    given = {name for name in names if getattr(parsed, name) is not None}
    if given <= {"position"}:
        return slots.at_position(view, parsed.position or 0)
    if given == {"step", "global_batch", "row"}:
        return slots.at_position(view, slots.position_in_batch(parsed.step, parsed.global_batch, parsed.row))
    if given == {"shard", "row"}:
        return slots.in_shard(view, parsed.shard, parsed.row)
    if given == {"validation", "row"}:
        return slots.in_validation(view, parsed.validation, parsed.row)
    options = " ".join("--" + name.replace("_", "-") for name in names if name in given)
    raise Refused(
        f"{options} names no record; give --position N, or --step S --global-batch B --row R, "
        "or --shard FILE --row R, or --validation COMPONENT --row R"
    )


def _print(parsed: argparse.Namespace, facts: dict[str, Any], lines: Iterable[str]) -> int:
    if parsed.json:
        print(json.dumps(facts, indent=1))
        return 0
    if hasattr(sys.stdout, "reconfigure"):  # what the locale cannot print is escaped instead of failing
        sys.stdout.reconfigure(errors="backslashreplace")
    for line in lines:
        print(line)
    return 0

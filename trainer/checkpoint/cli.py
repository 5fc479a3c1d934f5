"""`checkpoints list|verify|prune|diff`: what a run has saved. Needs no TensorFlow."""

from __future__ import annotations

import argparse
import os
from typing import Any

from schemas.errors import Refused, TokenmillError
from trainer.checkpoint import files, load, records, retention
from trainer.checkpoint.compare import Difference, compare, compare_meta
from trainer.checkpoint.load import ArrayInfo, Checkpoint
from trainer.checkpoint.records import Damaged


def add_commands(subparsers: Any) -> None:
    """Add `checkpoints` and its commands to a command line; `dispatch` runs them."""
    top = subparsers.add_parser("checkpoints", help="list, verify, prune or compare what a run has saved")
    commands = top.add_subparsers(dest="checkpoints", required=True, metavar="COMMAND")

    listed = commands.add_parser("list", help="what is there, by step")
    listed.add_argument("directory", metavar="DIR", help="the folder of the checkpoints, or a gs:// URL")

    verify = commands.add_parser(
        "verify",
        help="check every byte",
        description="Check checkpoints as loading does: marker, manifests, set of files, sha256 of each. Nothing is "
        "changed. Exit code 1 when one is damaged.",
    )
    verify.add_argument("directory", metavar="DIR", help="the folder of the checkpoints, or a gs:// URL")
    verify.add_argument("--step", type=int, help="this one only")

    prune = commands.add_parser(
        "prune",
        help="delete what retention would",
        description="Delete all but the newest, those of every so manieth step, and the best by validation. The newest "
        "is verified first; when it is damaged nothing is deleted.",
    )
    prune.add_argument("directory", metavar="DIR", help="the folder of the checkpoints, or a gs:// URL")
    prune.add_argument("--keep", type=int, default=5, help="so many of the newest (default: %(default)s)")
    prune.add_argument("--every", type=int, help="besides, steps that are a multiple of this")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")

    diff = commands.add_parser(
        "diff",
        help="compare two checkpoints",
        description="Print what differs in two checkpoints, bit by bit. Exit code 1 when something does.",
    )
    diff.add_argument("first", metavar="STEP_DIR", help="the folder of a step, such as out/checkpoints/step-00001000")
    diff.add_argument("second", metavar="STEP_DIR", help="another")


def dispatch(parsed: argparse.Namespace) -> int:
    """Run a command that `add_commands` has parsed; returns the exit code.

    Raises:
        TokenmillError: what it was asked for cannot be done.
    """
    if parsed.checkpoints == "diff":
        return _diff(parsed.first, parsed.second)
    directory = files.absolute(parsed.directory)
    if not files.names_in(directory) and not os.path.isdir(directory):
        raise Refused(f"{parsed.directory}: there is no such folder")
    if parsed.checkpoints == "list":
        return _list(directory)
    if parsed.checkpoints == "verify":
        return _verify(directory, parsed.step)
    return _prune(directory, retention.Retention(parsed.keep, parsed.every), parsed.dry_run)


def _list(directory: str) -> int:
    print(f"{'step':>12}  {'processes':>9}  {'bytes':>17}  validation loss")
    for step in load.steps(directory):
        try:
            commit = load.read_commit(directory, step)
            size = sum(files.files_below(os.path.join(directory, records.step_name(step))).values())
        except (Damaged, files.NotPlain) as error:
            print(f"{step:>12}  damaged: {error}")
            continue
        loss = retention.validation_loss(commit.meta)
        print(f"{step:>12}  {commit.processes:>9}  {size:>17,}  {'-' if loss is None else f'{loss:.6g}'}")
    for name in retention.leftovers(directory):
        print(f"{name}: not committed; the next run removes it, if it is not being written")
    for name in files.names_in(directory):
        if name.startswith(records.QUARANTINED):
            print(f"{name}: was found damaged; delete it when it has been looked at")
        if name.startswith(records.ABANDONED):
            print(f"{name}: the run went back behind it; the next save removes it")
    return 0


def _verify(directory: str, step: int | None) -> int:
    if step is not None and not load.is_committed(directory, step):
        raise Refused(f"{directory}: has no checkpoint of step {step}")
    damaged = 0
    for each in load.steps(directory) if step is None else [step]:
        try:
            checkpoint = load.open_step(directory, each)
        except Damaged as error:
            damaged += 1
            print(f"{records.step_name(each)}: damaged: {error}")
        else:
            print(f"{records.step_name(each)}: good, {len(checkpoint.arrays):,} arrays, {checkpoint.bytes:,} bytes")
    return 1 if damaged else 0


def _prune(directory: str, keep: retention.Retention, dry_run: bool) -> int:
    steps = load.steps(directory)
    if steps:
        try:
            load.open_step(directory, steps[-1])
        except Damaged as error:
            raise TokenmillError(f"nothing deleted: the newest checkpoint is damaged: {error}") from None
    superfluous = retention.superfluous(directory, keep)
    if not dry_run:
        retention.remove(directory, superfluous)
    for step in superfluous:
        print(f"{records.step_name(step)}: {'would be deleted' if dry_run else 'deleted'}")
    print(f"{len(steps) - len(superfluous)} kept")
    return 0


def _diff(first: str, second: str) -> int:
    a, b = _open(first), _open(second)
    differs = False
    for key, x, y in compare_meta(a.meta, b.meta):
        differs = True
        print(f"meta {key}: {_short(x)} -> {_short(y)}")
    for each in compare(a, b):
        differs = True
        print(_line(each))
    if not differs:
        print("the same, bit by bit")
    return 1 if differs else 0


def _open(path: str) -> Checkpoint:
    directory, name = os.path.split(files.absolute(path))
    step = records.step_of(name)
    if step is None or not load.is_committed(directory, step):
        raise Refused(f"{path}: not the folder of a checkpoint, such as step-00001000")
    try:
        return load.open_step(directory, step)
    except Damaged as error:
        raise TokenmillError(f"damaged: {error}") from None


def _line(each: Difference) -> str:
    if each.elements is None:
        return f"{each.name}: {_kind(each.first)} -> {_kind(each.second)}"
    return f"{each.name}: {each.elements:,} elements differ, by up to {each.largest:.6g}"


def _kind(info: ArrayInfo | None) -> str:
    return "absent" if info is None else f"{info.dtype} {info.shape}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

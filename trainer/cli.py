"""`python -m trainer COMMAND`: train on prepared shards. Exit codes: 0 done, 1 failed, 2 refused."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from schemas.errors import TokenmillError
from trainer.checkpoint.cli import add_commands as add_checkpoint_commands
from trainer.checkpoint.cli import dispatch as checkpoint_command
from trainer.quiet import without_import_noise

_RUN = """\
Reads CONFIG, checks it against the view, trains, and writes to the output folder: config.yaml with every default,
metrics.jsonl with every step, tensorboard/ with the same numbers, checkpoints/, and the trained model in model/
(Hugging Face's format, with its tokenizer). SIGTERM and Ctrl-C save a checkpoint and exit with 0. The same command
goes on from the newest checkpoint that is whole, and comes to the same bits as a run that was never stopped.
"""
_LAUNCH = """\
Starts the run in N local workers, for a mesh of N processes (or 1, to be started again after a crash). When a worker
is lost all are started again from the last checkpoint, after a pause that doubles up to a minute. Signals reach all
workers. On a cluster its own job starts `run` on each host instead: docs/training.md has job files.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train as a config says", description=_RUN)
    run.add_argument("config", metavar="CONFIG", help="a YAML file; docs/training.md lists its keys")
    run.add_argument("--data", metavar="VIEW", help="train on this view instead of the config's")
    run.add_argument("--output", metavar="DIR", help="write there instead of to the config's")

    launch = commands.add_parser(
        "launch", help="train in several local processes, started again when one is lost", description=_LAUNCH
    )
    launch.add_argument("config", metavar="CONFIG", help="as for run")
    launch.add_argument("--processes", type=int, required=True, metavar="N", help="data x expert of the config's mesh")
    launch.add_argument("--data", metavar="VIEW", help="as for run")
    launch.add_argument("--output", metavar="DIR", help="as for run")
    launch.add_argument(
        "--restarts",
        type=int,
        default=5,
        help="give up after so many in a row without a new checkpoint (default: %(default)s)",
    )

    add_checkpoint_commands(commands)

    imported = commands.add_parser(
        "import",
        help="take over a model in Hugging Face's format",
        description="Read a DeepSeek-V3 model (config.json, safetensors), check that every tensor is there and fits, "
        "and write it as float32 to OUT, which a config names as `initial`.",
    )
    imported.add_argument("source", metavar="HF_DIR", help="the folder of the model")
    imported.add_argument("target", metavar="OUT", help="an empty or new folder")

    export = commands.add_parser(
        "export",
        help="write a run's model in Hugging Face's format",
        description="Write the model of a run, with its tokenizer, as transformers' DeepseekV3ForCausalLM reads it.",
    )
    export.add_argument("directory", metavar="DIR", help="the output folder of a run, or the folder of a model")
    export.add_argument("target", metavar="OUT", help="an empty or new folder")
    export.add_argument("--step", type=int, help="of this checkpoint; default: the trained model, or the newest")
    export.add_argument(
        "--ema",
        action="store_true",
        help="the average of the weights, of the newest checkpoint or --step's, where the run's config has `ema`",
    )
    export.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "fp8"],
        default="bfloat16",
        help="fp8: projections as DeepSeek-V3's own checkpoint has them, the rest bfloat16 (default: %(default)s)",
    )
    export.add_argument(
        "--shard-bytes", type=int, default=5_000_000_000, help="at most so many bytes a file (default: %(default)s)"
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="loss by component and position, and retrieval, on held-out records",
        description="Write evaluation.json and evaluation.html, a page of plots: loss and perplexity of each component "
        "by position, and the share of pass keys found by length and depth. docs/evaluation.md defines both.",
    )
    evaluate.add_argument("directory", metavar="DIR", help="the output folder of a run, or the folder of a model")
    evaluate.add_argument(
        "--data",
        metavar="VIEW",
        action="append",
        default=[],
        help="on this view; may be given several times (default: those of the run's config)",
    )
    evaluate.add_argument(
        "--step",
        "--checkpoint",
        type=int,
        metavar="STEP",
        help="of this checkpoint; default: the trained model, or the newest",
    )
    evaluate.add_argument("--output", metavar="FOLDER", help="write there (default: DIR)")
    evaluate.add_argument(
        "--records", type=int, default=64, help="of a component, at most; 0: all (default: %(default)s)"
    )
    evaluate.add_argument(
        "--depths", type=int, default=11, help="of the needle, from 0 to 100 %% (default: %(default)s)"
    )
    evaluate.add_argument(
        "--samples", type=int, default=10, help="haystacks of each length and depth; 0: none (default: %(default)s)"
    )
    evaluate.add_argument(
        "--document-masking",
        action=argparse.BooleanOptionalAction,
        help="whether tokens see only their own document (default: as the run trained; with)",
    )

    plan = commands.add_parser(
        "plan",
        help="what a config would cost on a mesh of devices, by arithmetic",
        description="Parameters, operations, memory by kind, traffic, seconds a step, checkpoint and recovery of a "
        "config's largest batch. Nothing is built; docs/scale.md says how it is computed.",
    )
    plan.add_argument("config", metavar="CONFIG", help="a YAML file, as for run")
    plan.add_argument("--mesh", default="data=1,expert=1", metavar="data=D,expert=E", help="default: %(default)s")
    plan.add_argument("--device", default="h100", help="default: %(default)s; an unknown name lists those there are")
    plan.add_argument("--sequence-length", type=int, metavar="T", help="default: that of the config's view")
    plan.add_argument("--stage", metavar="NAME", help="of this one of the config's stages instead of the run proper")
    plan.add_argument("--json", action="store_true", help="print one JSON object")

    generate = commands.add_parser(
        "generate",
        help="let a model continue a text",
        description="Print a prompt and what the model makes of it. For looking at a model: every token runs the whole "
        "text through it again.",
    )
    generate.add_argument("directory", metavar="DIR", help="the output folder of a run, or the folder of a model")
    generate.add_argument("--step", type=int, help="of this checkpoint; default: the trained model, or the newest")
    generate.add_argument("--prompt", default="", help="how the document begins (default: nothing)")
    generate.add_argument("--tokens", type=int, default=100, help="at most so many new tokens (default: %(default)s)")
    generate.add_argument(
        "--temperature", type=float, default=0.8, help="0: always the likeliest token (default: %(default)s)"
    )
    generate.add_argument("--seed", type=int, default=0, help="of the choice (default: %(default)s)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        return _dispatch(parsed)
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
        print("interrupted", file=sys.stderr)
        return 1


def _dispatch(parsed: argparse.Namespace) -> int:
    if parsed.command == "checkpoints":
        return checkpoint_command(parsed)
    if parsed.command == "launch":
        from trainer.launch import launch  # noqa: PLC0415

        return launch(parsed.processes, parsed.config, parsed.data, parsed.output, parsed.restarts)
    # Imported here: TensorFlow takes seconds to load, which --help and argument errors need not wait for.
    with without_import_noise():
        import tensorflow as tf  # type: ignore[import-untyped]  # noqa: PLC0415

        tf.config.list_physical_devices()  # looks for devices, and says what it misses
    _COMMANDS[parsed.command](parsed)
    return 0


def _import(parsed: argparse.Namespace) -> None:
    from trainer.exchange import import_model  # noqa: PLC0415

    print(import_model(parsed.source, parsed.target))


def _export(parsed: argparse.Namespace) -> None:
    from trainer.exchange import export_model  # noqa: PLC0415

    print(export_model(parsed.directory, parsed.target, parsed.dtype, parsed.shard_bytes, parsed.step, parsed.ema))


def _plan(parsed: argparse.Namespace) -> None:
    from trainer.plan.report import print_plan  # noqa: PLC0415
    from trainer.training.config import load_run_config  # noqa: PLC0415
    from trainer.training.stages import config_of  # noqa: PLC0415

    config = load_run_config(parsed.config)
    if parsed.stage is not None:
        config = config_of(config, parsed.stage)
    print_plan(config, parsed.mesh, parsed.device, parsed.sequence_length, parsed.json)


def _run(parsed: argparse.Namespace) -> None:
    from trainer import run  # noqa: PLC0415
    from trainer.training.config import load_run_config  # noqa: PLC0415
    from trainer.training.interruption import stop_without_launcher  # noqa: PLC0415

    stop_without_launcher()
    run(load_run_config(parsed.config, data=parsed.data, output=parsed.output))


def _generate(parsed: argparse.Namespace) -> None:
    from trainer.generate import print_generated  # noqa: PLC0415

    print_generated(parsed.directory, parsed.prompt, parsed.tokens, parsed.temperature, parsed.seed, parsed.step)


def _evaluate(parsed: argparse.Namespace) -> None:
    from schemas import yaml_config  # noqa: PLC0415
    from trainer.evaluation.config import EvaluationConfig  # noqa: PLC0415
    from trainer.evaluation.evaluate import evaluate_folder  # noqa: PLC0415

    asked = {"records": parsed.records or None, "depths": parsed.depths, "samples": parsed.samples}
    size = yaml_config.parse(EvaluationConfig, asked, "evaluate")
    print(evaluate_folder(parsed.directory, parsed.data, parsed.output, size, parsed.step, parsed.document_masking))


_COMMANDS = {
    "evaluate": _evaluate,
    "export": _export,
    "generate": _generate,
    "import": _import,
    "plan": _plan,
    "run": _run,
}
"""Those that need TensorFlow."""

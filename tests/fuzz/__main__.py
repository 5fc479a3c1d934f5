"""The driver: runs targets one after the other for a given time, each in a process of its own."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tests.fuzz.targets import TARGETS

FOUND = 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (default: 1)")
    parser.add_argument("--target", action="append", choices=[*TARGETS], help="may be repeated (default: all)")
    parser.add_argument("--seed", type=int, help="of the examples (default: another each time)")
    parser.add_argument(
        "--engine", choices=["auto", "random", "atheris"], default="auto", help="auto: atheris if there"
    )
    return parser


def _engine(asked: str) -> str:
    if asked != "auto":
        return asked
    try:
        import atheris  # type: ignore[import-untyped]  # noqa: F401, PLC0415
    except ImportError:
        return "random"
    return "atheris"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the targets; 0 if every law held."""
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else secrets.randbits(32)
    engine = _engine(options.engine)
    print(f"engine {engine}, seed {seed}, {options.minutes:g} minutes a target", flush=True)
    broken = []
    for name in options.target or TARGETS:
        # A target that kills its process, or an engine that ends it, must not end the others.
        child = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.engines", name, str(options.minutes)]
        folder = tempfile.mkdtemp(prefix="tokenmill-fuzz-")
        places = {**os.environ, "TMPDIR": folder}
        if not subprocess.run([*child, str(seed), engine], env=places, check=False).returncode:
            shutil.rmtree(folder)
            continue
        broken.append(name)
        print(f"{name}: the last input lies in {folder}", flush=True)
        if engine == "atheris":  # what it found lies in that folder too: shrink it and show it
            subprocess.run([*child[:-1], "0", str(seed), "random"], env=places, check=False)
    print(f"broken: {', '.join(broken)}" if broken else "every law held", flush=True)
    return FOUND if broken else 0


if __name__ == "__main__":
    sys.exit(main())

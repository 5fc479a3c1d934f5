"""Runs one target for a time, with hypothesis' random examples or guided by coverage through atheris."""

from __future__ import annotations

import functools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

_ROUND: Final = 200
"""Examples of a random round: enough to grow large ones, few enough to stop in time."""
_SEEDS: Final = 64
_MOST_BYTES: Final = 8192
_MOST_SECONDS: Final = 120
_MOST_MEMORY_MB: Final = 4096


class _Clock:
    """Counts examples and says when the time is up."""

    def __init__(self, name: str, engine: str, minutes: float):
        self._told = f"{name:10} {engine:8}"
        self._start, self._cpu = time.monotonic(), time.process_time()
        self._end = self._start + 60 * minutes
        self._examples = 0

    def counting(self, law: Callable[..., None]) -> Callable[..., None]:
        """The law, with each of its uses counted."""

        @functools.wraps(law)
        def counted(*args: Any, **kwargs: Any) -> None:
            self._examples += 1
            law(*args, **kwargs)

        return counted

    def up(self) -> bool:
        return time.monotonic() >= self._end

    def report(self) -> None:
        """Say what was done."""
        cpu = time.process_time() - self._cpu
        rate = self._examples / max(cpu, 1e-9)
        told = f"{self._examples:9} examples {cpu / 60:7.2f} CPU-minutes {rate:8.1f} examples/s"
        print(f"{self._told} {told}", flush=True)


def run_random(name: str, minutes: float, seed: int) -> None:
    """Rounds of random examples, each with a seed of its own; at least one round."""
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - atheris has to come before what it instruments

    clock = _Clock(name, "random", minutes)
    rounds = 0
    try:
        while not rounds or not clock.up():
            test = TARGETS[name].test(_ROUND, seed + rounds)
            test.hypothesis.inner_test = clock.counting(test.hypothesis.inner_test)
            test()
            rounds += 1
    finally:
        clock.report()


def run_atheris(name: str, minutes: float, seed: int) -> None:
    """Examples guided by coverage. Does not return."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415 - no dependency

    # Where whole arrays are compared there are few branches, and atheris 3.0.0 loses the memory of each comparison.
    import pipelines.minhash  # noqa: PLC0415
    import pipelines.quality  # noqa: F401, PLC0415

    with atheris.instrument_imports(include=["pipelines", "tarfile"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    clock = _Clock(name, "atheris", minutes)
    test = TARGETS[name].test(_ROUND)
    test.hypothesis.inner_test = clock.counting(test.hypothesis.inner_test)
    one_input = test.hypothesis.fuzz_one_input

    def example(data: bytes) -> None:
        one_input(data)
        if clock.up():
            clock.report()
            os._exit(0)  # the engine itself looks at its own clock alone, and ends without a word

    draw = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    for number in range(_SEEDS):
        (folder / f"{number:03}").write_bytes(draw.randbytes(draw.choice([64, 512, _MOST_BYTES])))
    options = [
        f"-seed={seed & 0x7FFFFFFF or 1}",
        f"-max_len={_MOST_BYTES}",
        "-len_control=0",
        f"-timeout={_MOST_SECONDS}",
        f"-rss_limit_mb={_MOST_MEMORY_MB}",
        f"-artifact_prefix={folder}/",
        "-verbosity=0",
        "-print_final_stats=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], example)
    atheris.Fuzz()


def main(name: str, minutes: str, seed: str, engine: str) -> None:
    """Run one target; what fails is kept in the folder for temporary files, where another engine finds it."""
    kept = DirectoryBasedExampleDatabase(Path(tempfile.gettempdir()) / "examples")
    settings.register_profile("fuzz", database=kept)
    settings.load_profile("fuzz")
    {"random": run_random, "atheris": run_atheris}[engine](name, float(minutes), int(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])

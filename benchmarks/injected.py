"""Faults put into a training where they would arise, in one of its processes.

    python benchmarks/injected.py CONFIG FAULTS

is `python -m trainer run CONFIG` with the faults of a JSON file in it: the fields of `Faults`, of positions in the
order of records, each the first of a batch; `rank`, of the process they are in; and `told`, a file to which each gets a
line when it comes. Factors and garbage are in the batch, however often it is read. The others come once, also where the
run starts again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

import trainer.step
import trainer.training.trainer
from schemas.errors import TokenmillError
from trainer.accumulation import Accumulated, accumulate
from trainer.training.config import load_run_config
from trainer.training.loop import run
from trainer.training.trainer import Input, Trainer


class Faults:
    """gradients: by position, what the batch's gradients are multiplied by. garbage: positions whose batches are
    one rare token again and again. pauses: by position, seconds that its input takes. errors: positions at which the
    process raises an error. weights: positions before which a weight becomes NaN in memory.

    tell: called with the kind and position of each fault when it comes; False: a fault that comes once has come before.
    """

    def __init__(
        self,
        gradients: Mapping[int, float] | None = None,
        garbage: Sequence[int] = (),
        pauses: Mapping[int, float] | None = None,
        errors: Sequence[int] = (),
        weights: Sequence[int] = (),
        tell: Callable[[str, int], bool] = lambda kind, position: True,
    ) -> None:
        self._gradients, self._garbage = gradients or {}, set(garbage)
        self._pauses, self._errors, self._weights = pauses or {}, set(errors), set(weights)
        self._tell = tell
        self._factor: Any = None
        self._model: Any = None
        self.read: list[int] = []

    def install(self, put: Callable[[Any, str, Any], None] = setattr) -> None:
        """For all trainings from now on."""
        read, make = Input.next, Trainer.__init__

        def damaged(batches: Input, sequences: int, position: int) -> dict[str, Any]:
            self._happen(position)
            batch = dict(read(batches, sequences, position))
            self.read.append(position)
            self._factor.assign(self._gradients.get(position, 1.0))
            if position in self._garbage:
                tokens = batch["tokens"].numpy()
                rare = 4 + int(np.bincount(tokens.ravel())[4:].argmin())
                batch["tokens"] = tf.fill(tokens.shape, tf.constant(rare, batch["tokens"].dtype))
            return batch

        def scaled(*arguments: Any) -> Accumulated:
            found = accumulate(*arguments)
            return found._replace(gradients=[self._factor * gradient for gradient in found.gradients])

        def made(trainer: Trainer, *arguments: Any) -> None:
            make(trainer, *arguments)
            self._model = trainer.model
            self._factor = self._factor or tf.Variable(1.0)  # not before the mesh was joined

        put(Input, "next", damaged)
        put(Trainer, "__init__", made)
        put(trainer.step, "accumulate", scaled)

    def _happen(self, position: int) -> None:
        """What comes before a batch is read."""
        if position in self._gradients:
            self._tell("gradient", position)
        if position in self._garbage:
            self._tell("garbage", position)
        if position in self._weights and self._tell("weight", position):
            variable = self._model.variables_in_order[-1]
            variable.assign(np.full(variable.shape, np.nan))
        if position in self._pauses and self._tell("pause", position):
            time.sleep(self._pauses[position])
        if position in self._errors and self._tell("error", position):
            raise RuntimeError("an error that was injected")


class Told:
    """The file of faults that have come: JSON lines of `kind`, `position` and `time`."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def __call__(self, kind: str, position: int) -> bool:
        """Write it down; False if it was before."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        if any((line["kind"], line["position"]) == (kind, position) for line in map(json.loads, lines)):
            return False
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "position": position, "time": time.time()}) + "\n")
        return True


def main() -> None:
    """The run, with faults if it is the process that has them."""
    config, given = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    place = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))
    rank, told = given.pop("rank"), given.pop("told")
    if place["task"]["index"] == rank:
        by_position = {name: {int(at): n for at, n in given.pop(name, {}).items()} for name in ("gradients", "pauses")}
        Faults(**by_position, **given, tell=Told(told)).install()
    try:
        run(load_run_config(config))
    except TokenmillError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()

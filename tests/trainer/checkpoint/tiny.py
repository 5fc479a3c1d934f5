"""A small state whose values follow from a seed, and saves of it by one or several processes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from trainer.checkpoint import Checkpoint, Outcome, Owned, Retention, Saver

State = dict[str, np.ndarray]


def state(seed: int, scale: int = 1) -> State:
    """Arrays of all kinds that a run has; `scale` makes the larger ones larger."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((40 * scale, 30), np.float32) * np.float32(0.02)
    return {
        "weights": weights,
        "m/weights": (weights * 3).astype(ml_dtypes.bfloat16),
        "step": np.array(seed, np.int64),
        "none": np.empty((0, 5), np.float32),
        "bias": rng.standard_normal(7).astype(np.float32),
        "flags": rng.integers(0, 2, (3, 2)).astype(bool),
    }


def owned(arrays: State, process: int = 0, processes: int = 1) -> list[Owned]:
    """Flat slices as a mesh's processes own them; what is smaller than the processes are many belongs to process 0."""
    found = []
    for name, array in arrays.items():
        flat = array.reshape(-1)
        begin, end = (flat.size * p // processes for p in (process, process + 1))
        found.append(Owned(name, flat[begin:end], flat.shape, (begin,)))
    return found


def save(
    directory: Path, step: int, arrays: State, meta: Mapping[str, Any] | None = None, processes: int = 1, **options: Any
) -> list[Outcome]:
    """One save by savers of their own; the outcomes of all processes."""
    options = {"keep": Retention(100), "run": f"run-{step}", **options}
    savers = [Saver(str(directory), process=p, processes=processes, **options) for p in range(processes)]
    for process, saver in enumerate(savers):
        saver.save(step, owned(arrays, process, processes), meta or {})
    return [outcome for saver in savers for outcome in saver.wait()]


def saved(directory: Path, step: int, arrays: State, meta: Mapping[str, Any] | None = None, processes: int = 1) -> None:
    """As `save`, where it must succeed."""
    for outcome in save(directory, step, arrays, meta, processes):
        if outcome.error is not None:
            raise outcome.error


def assert_holds(checkpoint: Checkpoint, arrays: State) -> None:
    """The checkpoint has exactly these arrays, bit by bit; their shapes may be flat."""
    assert checkpoint.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        found = checkpoint.read(name)
        assert found.dtype == array.dtype, name
        assert found.tobytes() == array.tobytes(), name


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def fresh_copy(pristine: Path, target: Path) -> Path:
    """A copy of a folder in place of what is at `target`."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(pristine, target))

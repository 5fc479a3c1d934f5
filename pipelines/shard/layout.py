"""Packing a unit: which documents go to which split, and where their tokens lie in sequences."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines import stages
from pipelines.dedup.records import save
from pipelines.documents import check_unit_file
from pipelines.jobs import Run
from pipelines.packing import Method, pack
from pipelines.parquet import read_table
from pipelines.plan import read_index
from pipelines.stages import Receipt
from schemas import manifest

# One packed piece: its sequence in the unit, the row of its document in the tokens file, its tokens in the document.
PIECE = np.dtype([("sequence", "<i8"), ("row", "<i8"), ("start", "<i8"), ("length", "<i8")])


@dataclass(frozen=True)
class PackUnit:
    """The task: the layouts of one unit, train and validation.

    capacity: sequence_length + 1 tokens. thresholds: per component, documents with a key below it are validation.
    """

    folder: str
    capacity: int
    method: Method
    thresholds: dict[str, int] = field(default_factory=dict)

    def __call__(self, run: Run, task: int) -> None:
        """Pack one unit and leave its receipt."""
        index = read_index(run)
        unit = index.unit(task)
        path = index.path(run, "tokens", "tokens", task)
        check_unit_file(run, task, "tokens", path)
        table = read_table(path, ["key", "count"])
        keys, lengths = table["key"].to_numpy(), table["count"].to_numpy()
        held_out = is_validation(keys, self.thresholds[unit.component])
        counts: dict[str, int] = {"documents": len(keys)}
        for split, chosen in (("train", ~held_out), ("validation", held_out)):
            rows = np.flatnonzero(chosen)
            rows = rows[np.argsort(keys[rows], kind="stable")]
            layout = pack(lengths[rows], self.capacity, self.method)
            pieces = np.empty(len(layout.sequence), PIECE)
            pieces["sequence"], pieces["start"], pieces["length"] = (
                layout.sequence,
                layout.start,
                layout.length,
            )
            pieces["row"] = rows[layout.document]
            save(run, layout_path(run, self.folder, split, task), pieces)
            counts[f"{split}_sequences"] = layout.sequences
            counts[f"{split}_tokens"] = int(lengths[rows].sum())
        written = manifest.Unit(unit=unit.unit, counts=counts)
        stages.write_receipt(run, self.folder, Receipt(task=task, files=(), unit=written))


def is_validation(keys: npt.NDArray[np.uint64], threshold: int) -> npt.NDArray[np.bool_]:
    """Which documents are held out: those whose key is below the threshold, an integer in [0, 2**64]."""
    return keys < np.uint64(threshold) if threshold < 1 << 64 else np.ones(len(keys), bool)


def validation_threshold(fraction: float, least_key: int) -> int:
    """The threshold that holds out `fraction` of all keys, and at least the document with the least key."""
    return 0 if fraction == 0 else max(int(fraction * 2.0**64), least_key + 1)


def layout_path(run: Run, folder: str, split: str, task: int) -> str:
    """The work file of a unit's layout."""
    return run.work(folder, f"{split}-{task:07d}.npy")


def fill(
    pieces: npt.NDArray[np.void],
    tokens: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    sequences: int,
    capacity: int,
    pad: int,
) -> npt.NDArray[np.integer]:
    """Packed sequences as a matrix [sequences, capacity] of the tokens' dtype, padded at the end.

    tokens: all of the unit's tokens end to end; offsets: [documents + 1], where each document begins.
    """
    matrix = np.full((sequences, capacity), pad, tokens.dtype)
    at = np.zeros(sequences, np.int64)
    for sequence, row, start, length in pieces.tolist():
        begin = offsets[row] + start
        matrix[sequence, at[sequence] : at[sequence] + length] = tokens[begin : begin + length]
        at[sequence] += length
    return matrix

"""Pieces of global arrays: what a process owns, its copy in host memory, and how pieces make up a whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import Refused
from trainer.checkpoint.arrays import DTYPES
from trainer.checkpoint.records import Piece


@dataclass(frozen=True, slots=True)
class Owned:
    """The slice of a global array that this process saves: it begins at `offset` and is as large as `array`.

    array: a numpy array, or a variable with `read_value` and a numpy view (TensorFlow's); of a dtype in
        `trainer.checkpoint.arrays.DTYPES`.
    """

    name: str
    array: Any
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]

    @classmethod
    def whole(cls, name: str, array: Any) -> Owned:
        """An array that this process owns all of."""
        shape = tuple(int(size) for size in array.shape)
        return cls(name, array, shape, (0,) * len(shape))


def _view(array: Any) -> np.ndarray:
    """The values without a copy where there is a way: of a variable, `read_value` is one and `numpy()` is not."""
    return np.asarray(array.read_value() if hasattr(array, "read_value") else array)


class HostCopy:
    """Copies of pieces in flat host buffers, one for each dtype, made once and used again.

    The first copy into new memory takes several times as long as the later ones, as its pages are made.
    """

    def __init__(self) -> None:
        self._layout: list[Piece] = []
        self.buffers: dict[str, np.ndarray] = {}

    @property
    def pieces(self) -> list[Piece]:
        """Where each piece is in `buffers`."""
        return self._layout

    def take(self, owned: Sequence[Owned]) -> None:
        """Copy the values, in order.

        Raises:
            Refused: two pieces are one, a piece does not lie in its array, or a dtype cannot be saved.
        """
        views = [_view(each.array) for each in owned]
        layout = _lay_out(owned, views)
        if layout != self._layout:
            self._layout = []
            self.buffers = {}
            for dtype in sorted({piece.dtype for piece in layout}):
                elements = sum(view.size for view in views if view.dtype == DTYPES[dtype])
                self.buffers[dtype] = np.zeros(elements, DTYPES[dtype])
            self._layout = layout
        for piece, view in zip(layout, views, strict=True):
            target = self.buffers[piece.dtype][piece.start : piece.start + view.size]
            np.copyto(target.reshape(view.shape), view)


def _lay_out(owned: Sequence[Owned], views: Sequence[np.ndarray]) -> list[Piece]:
    used: dict[str, int] = {}
    pieces = []
    for each, view in zip(owned, views, strict=True):
        dtype = view.dtype.name
        if DTYPES.get(dtype) != view.dtype:
            raise Refused(
                f"{each.name}: arrays of {view.dtype} cannot be saved; of these they can: {', '.join(DTYPES)}"
            )
        if not fits(each.global_shape, each.offset, view.shape):
            raise Refused(
                f"{each.name}: a slice of shape {view.shape} at {each.offset} is not in an array of shape "
                f"{each.global_shape}"
            )
        start = used.get(dtype, 0)
        used[dtype] = start + view.size
        pieces.append(
            Piece(
                name=each.name,
                dtype=dtype,
                global_shape=list(each.global_shape),
                offset=list(each.offset),
                shape=list(view.shape),
                start=start,
            )
        )
    return pieces


def fits(global_shape: Sequence[int], offset: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a slice lies in an array."""
    return len(global_shape) == len(offset) == len(shape) and all(
        begin >= 0 and begin + size <= whole for whole, begin, size in zip(global_shape, offset, shape, strict=True)
    )


def cover(name: str, pieces: Sequence[Piece]) -> str | None:
    """What keeps pieces of one name from being one array, each element once; None when nothing does."""
    first = pieces[0]
    whole = first.global_shape
    for piece in pieces:
        if (piece.dtype, piece.global_shape) != (first.dtype, whole):
            return f"{name}: pieces of different arrays: {first.dtype} {whole} and {piece.dtype} {piece.global_shape}"
        if not fits(whole, piece.offset, piece.shape):
            return f"{name}: a slice of shape {piece.shape} at {piece.offset} is not in an array of shape {whole}"
    filled = [piece for piece in pieces if math.prod(piece.shape)]
    have, want = sum(math.prod(piece.shape) for piece in filled), math.prod(whole)
    if have == want and not _overlap(filled):
        return None
    return f"{name}: its pieces have {have:,} elements of {want:,}" + (", some of them twice" * (have >= want))


def _overlap(pieces: Sequence[Piece]) -> bool:
    if len(pieces) < 2:
        return False
    begins = np.array([piece.offset for piece in pieces], np.int64)
    ends = begins + np.array([piece.shape for piece in pieces], np.int64)
    order = np.lexsort(begins.T[::-1])
    begins, ends = begins[order], ends[order]
    for i in range(len(pieces) - 1):
        # Sorted by the first axis: only those that begin before this one ends there can meet it.
        upto = np.searchsorted(begins[:, 0], ends[i, 0]) if begins.shape[1] else len(pieces)
        later = slice(i + 1, upto)
        if np.any(np.all((begins[later] < ends[i]) & (begins[i] < ends[later]), axis=1)):
            return True
    return False


def by_name(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Pieces of each name, names in order of first sight."""
    found: dict[str, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.name, []).append(piece)
    return found

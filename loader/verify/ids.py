"""Document ids, `component/unit/row`, as numbers: one number a unit of the run, and the row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

IntArray = npt.NDArray[np.int64]
_ID = r"^(?P<component>[^/]+)/(?P<unit>0|[1-9][0-9]{0,9})/(?P<row>0|[1-9][0-9]{0,8})$"
_EARLIER_ID = re.compile(r"[^/]+#[a-z][a-z0-9_]{0,63}/(0|[1-9][0-9]{0,9})/(0|[1-9][0-9]{0,8})")


def of_earlier_run(id_: str) -> bool:
    """Whether an id is one of an earlier run's document, `run#component/unit/row`; that run is not looked at."""
    return _EARLIER_ID.fullmatch(id_) is not None


@dataclass(frozen=True)
class Units:
    """All units of a run, numbered through: those of the first component first. counts: units of each component."""

    names: tuple[str, ...]
    counts: tuple[int, ...]

    @cached_property
    def first(self) -> IntArray:
        """The number of each component's first unit, and at the end the number of all units. int64 [components + 1]."""
        return np.concatenate(([0], np.cumsum(self.counts))).astype(np.int64)

    @property
    def total(self) -> int:
        """The number of units."""
        return sum(self.counts)

    def number(self, component: str, unit: int) -> int:
        """The number of a component's unit."""
        return int(self.first[self.names.index(component)]) + unit

    def component_of(self, number: npt.ArrayLike) -> IntArray:
        """The component (its index) each unit number belongs to."""
        return np.searchsorted(self.first, number, side="right").astype(np.int64) - 1

    def name(self, number: int) -> str:
        """`component/unit` of a unit number."""
        component = int(self.component_of(number))
        return f"{self.names[component]}/{number - int(self.first[component])}"

    def parse(self, ids: pa.Array) -> tuple[IntArray, IntArray]:
        """(unit number, row) of each id, int64 [n] each; (-1, -1) where it is the id of no unit's document."""
        parts = pc.extract_regex(ids, _ID)
        component = pc.index_in(pc.struct_field(parts, "component"), pa.array(self.names, pa.string()))
        c = _numbers(component)
        unit = _numbers(pc.struct_field(parts, "unit"))
        row = _numbers(pc.struct_field(parts, "row"))
        known = (c >= 0) & (unit >= 0)
        known[known] = unit[known] < np.array(self.counts, np.int64)[c[known]]
        return np.where(known, self.first[c] + unit, -1), np.where(known, row, -1)


def _numbers(values: pa.Array) -> IntArray:
    """int64, -1 for null."""
    filled: IntArray = pc.fill_null(values.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return filled

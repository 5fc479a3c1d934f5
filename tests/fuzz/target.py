"""What a fuzz target is: a law, and where its arguments come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Target:
    """A law that holds for every value of its arguments.

    law: raises if it does not hold. arguments: strategies by name. examples: arguments that are always tried, each
    one that broke the law once.
    """

    name: str
    law: Callable[..., None]
    arguments: Mapping[str, SearchStrategy[Any]]
    examples: tuple[dict[str, Any], ...] = field(default=())

    def test(self, examples: int, seed_: int | None = None) -> Any:
        """A hypothesis test of `examples` random examples; new ones each time unless there is a seed."""
        test: Any = given(**self.arguments)(self.law)
        for arguments in self.examples:
            test = example(**arguments)(test)
        if seed_ is not None:
            test = seed(seed_)(test)
        checks = list(HealthCheck)
        return settings(max_examples=examples, deadline=None, suppress_health_check=checks, print_blob=True)(test)

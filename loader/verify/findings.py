"""What a verification found: problems, one sentence each, and how much was checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

MOST_LISTED = 100  # problems
MOST_ALIKE = 3  # of one kind in one file


@dataclass
class Findings:
    """Gathers problems and counts.

    root: the folder that paths in sentences are relative to. total: problems found; listed: those of them that the
    sentences in `problems` stand for.
    """

    root: Path
    problems: list[str] = field(default_factory=list)
    total: int = 0
    listed: int = 0
    checked: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.total == 0

    def name(self, path: Path) -> str:
        """A path as it is shown: below the root."""
        return path.relative_to(self.root).as_posix() if path != self.root else str(path)

    def problem(self, path: Path, sentence: str, alike: int = 1) -> None:
        """One thing is wrong at `path`; it stands for `alike` problems."""
        self.total += alike
        if len(self.problems) < MOST_LISTED:
            self.listed += alike
            self.problems.append(f"{self.name(path)}: {sentence}")

    def each(self, path: Path, sentences: Iterable[str]) -> None:
        """Problems alike in one file: the first few are listed, the rest counted."""
        rest = iter(sentences)
        for sentence in islice(rest, MOST_ALIKE):
            self.problem(path, sentence)
        if more := sum(1 for _ in rest):
            self.problem(path, f"{more:,} more like the last", more)

    def expect(self, path: Path, what: str, stated: Any, found: Any) -> bool:
        """Whether what the manifest states is what was found; a problem when not."""
        if stated != found:
            self.problem(path, f"{what}: stated {_shown(stated)}, found {_shown(found)}")
        return bool(stated == found)

    def lines(self) -> list[str]:
        """The report for people."""
        counted = [f"checked {', '.join(f'{n:,} {what}' for what, n in self.checked.items())}"] if self.checked else []
        if self.sound:
            return [f"{self.root}: sound", *counted, *self.notes]
        more = [f"and {self.total - self.listed:,} more problems"] if self.total > self.listed else []
        verdict = f"{self.root}: NOT sound, {self.total:,} {'problem' if self.total == 1 else 'problems'}"
        return [*self.problems, *more, verdict, *counted, *self.notes]

    def facts(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "path": str(self.root),
            "sound": self.sound,
            "problems": self.problems,
            "problems_in_all": self.total,
            "checked": dict(self.checked),
            "notes": self.notes,
        }


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)

"""The limit on unreadable input: early, at the end, and the same whoever does the work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ingest, unreadable
from pipelines.attempt import _reason
from pipelines.plan import Unit
from schemas import storage
from tests.pipelines.tiny import config_of, context_of, tiny_config, words, write_tiny

UNITS, LINES = 60, 10


def broken(folder: Path, share: float, limit: float = 0.1) -> dict[str, Any]:
    """The tiny corpus with a second source of prose, of which about `share` of the lines, in each unit, are no JSON."""
    write_tiny(folder)
    line = json.dumps({"text": words(7, 200)})
    bad = round(share * LINES)
    lines = [("{" + line[2:] if i % LINES < bad else line) for i in range(UNITS * LINES)]
    (folder / "broken.jsonl").write_text("\n".join(lines) + "\n")
    content = tiny_config(folder)
    content["components"]["prose"]["sources"].append({"path": str(folder / "broken.jsonl"), "format": "jsonl"})
    content["ingest"] = {"unit_bytes": LINES * len(line), "max_rejected_fraction": limit}
    return content


def refusal(content: dict[str, Any], directory: Path, options: list[str]) -> tuple[str, int]:
    """What ingest says when it stops, and how many units of the source's component were done then."""
    with context_of(config_of(content), directory) as given:
        context = replace(given, options=options)
        with pytest.raises(Exception) as caught:
            ingest.run(context)
        told = _reason(context.run, caught.value)
        folders = [name for name in storage.names_in(context.run.work()) if name.startswith("ingest-")]
        names = [name for folder in folders for name in storage.names_in(context.run.work(folder))]
    return told, sum(name.startswith("receipt-") for name in names)


def test_a_mostly_unreadable_source_stops_the_job_early_on_every_runner(tmp_path: Path) -> None:
    content = broken(tmp_path, 0.7)
    found = [
        refusal(content, tmp_path / f"run-{len(options)}", options)
        for options in (
            ["--direct_num_workers=1"],
            ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
        )
    ]
    assert found[0] == found[1]
    told, done = found[0]
    assert f"in {unreadable.FIRST} units, looked at first, are unreadable" in told
    assert "components.prose" in told and "broken.jsonl" in told and "max_rejected_fraction = 0.1" in told
    assert told.count("broken_json") == 1 + unreadable.SHOWN and "raise the limit" in told
    with context_of(config_of(content), tmp_path / "run-1") as context:
        assert done < len(context.plan.units) - UNITS / 4


def test_what_is_above_the_limit_but_not_mostly_unreadable_is_refused_at_the_end(tmp_path: Path) -> None:
    content = broken(tmp_path, 0.3)
    told, done = refusal(content, tmp_path / "run", ["--direct_num_workers=1"])
    assert "looked at first" not in told and f"of {UNITS * LINES} documents of source" in told
    with context_of(config_of(content), tmp_path / "run") as context:
        assert done == len(context.plan.units)


def test_the_way_out_is_the_limit(tmp_path: Path) -> None:
    content = broken(tmp_path, 0.7)
    refusal(content, tmp_path / "run", ["--direct_num_workers=1"])
    content["ingest"]["max_rejected_fraction"] = 0.9
    with context_of(config_of(content), tmp_path / "run") as context:
        ingest.run(context)
        assert storage.size_of(context.run.path("documents", "prose", "manifest.json"))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2)), max_size=300), st.integers(0, 9))
def test_the_first_units_are_drawn_from_all_of_a_source(sources: list[tuple[str, int]], seed: int) -> None:
    units = [Unit(component, number, source, ()) for number, (component, source) in enumerate(sorted(sources))]
    drawn = unreadable.first_units(units, range(len(units)), seed)
    assert [(component, source) for component, source, _ in drawn] == sorted(set(sources))
    for component, source, tasks in drawn:
        own = [task for task, unit in enumerate(units) if (unit.component, unit.source) == (component, source)]
        assert len(tasks) == min(unreadable.FIRST, len(own)) and set(tasks) <= set(own)
        assert list(tasks) == sorted(tasks)
    more = Unit("z", 0, 0, ())  # another component changes nothing
    assert unreadable.first_units([*units, more], range(len(units)), seed) == drawn

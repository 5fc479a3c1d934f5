"""Time and memory of the last command, sizes on disk, and what the run was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.report.accounts import finished
from pipelines.report.blocks import Column, Summed, details, note, path, table
from pipelines.report.charts import bar
from pipelines.report.gather import Numbers
from pipelines.report.markup import Html, duration, join, number, percent, size, tag
from schemas.manifest import STAGES, File


def section(numbers: Numbers) -> Html:
    """Time by stage, memory, disk, fingerprints and config."""
    return join(
        _time(numbers, numbers.facts)
        if numbers.facts is not None
        else note("Time and memory are not known: there is no run.json."),
        _disk(numbers),
        details("Fingerprints and versions", *made) if (made := _made(numbers)) else None,
        details("The config, every default written out", tag("pre", numbers.config.dump_yaml())),
    )


def _time(numbers: Numbers, facts: Mapping[str, Any]) -> Html:
    stages: dict[str, float] = facts.get("stages", {})
    whole = float(facts.get("seconds", 0)) or sum(stages.values()) or 1.0
    known = [(stage, stages[stage]) for stage in STAGES if stage in stages]
    rest = max(whole - sum(seconds for _, seconds in known), 0.0)
    rows: list[tuple[object, ...]] = [
        (stage, duration(seconds), percent(seconds, whole), bar([(seconds / whole, "kept")]))
        for stage, seconds in known
    ]
    rows.append(("listing, starting, clearing", duration(rest), percent(rest, whole), bar([(rest / whole, "third")])))
    columns = [Column("stage"), Column("time", "num"), Column("share", "num"), Column("", "drawn")]
    before = [stage for stage in finished(numbers) if stage not in stages]
    return join(
        table("Time by stage", columns, [*rows, Summed(("all", duration(whole), "", ""))]),
        note(f"Only the last command is timed. It found {', '.join(before)} done already.") if before else None,
        _memory(facts),
    )


def _memory(facts: Mapping[str, Any]) -> Html:
    worker = facts.get("peak_worker_bytes", 0)
    rows = [
        ("command began", facts.get("started", "–")),
        ("attempts", number(facts.get("attempts", 1))),
        ("processors", number(facts.get("processors") or 0)),
        ("memory of the driver, at most", size(facts.get("peak_driver_bytes", 0))),
        ("memory of a worker, at most", size(worker) if worker else "there was none beside the driver"),
        ("Beam options", path(" ".join(map(str, facts.get("beam_options", []))) or "none")),
        ("shuffle", facts.get("shuffle", "–")),
    ]
    return table("The machine", [Column("what"), Column("value")], rows)


def _disk(numbers: Numbers) -> Html | None:
    folders: dict[str, tuple[File, ...]] = {}
    for one in numbers.components:
        for name, whole in (("documents", one.documents), ("dedup", one.drops), ("tokens", one.tokens)):
            folders[name] = folders.get(name, ()) + (whole.files if whole else ())
    folders["tokenizer"] = numbers.tokenizer.files if numbers.tokenizer else ()
    for length, view in numbers.views.items():
        if view is not None:
            held_out = [file for split in view.splits.validation.values() for file in split.files]
            folders[f"shards/{length}"] = (*view.splits.train.files, *held_out, *view.provenance)
    rows = [
        (path(name), number(len(files)), size(sum(file.bytes for file in files)))
        for name, files in folders.items()
        if files
    ]
    if not rows:
        return None
    return table("Files", [Column("folder"), Column("files", "num"), Column("size", "num")], rows)


def _made(numbers: Numbers) -> list[Html]:
    """Fingerprints of the finished stages, and the versions they were made with."""
    stages = [
        (f"{name}/{one.name}", whole)
        for one in numbers.components
        for name, whole in (("documents", one.documents), ("dedup", one.drops), ("tokens", one.tokens))
    ] + [("tokenizer", numbers.tokenizer)]
    there = [(name, whole) for name, whole in stages if whole is not None]
    prints = [(name, whole.fingerprint) for name, whole in there]
    prints += [(f"shards/{length}", view.fingerprint) for length, view in numbers.views.items() if view is not None]
    versions = sorted({item for _, whole in there for item in whole.versions.items()})
    if not prints:
        return []
    rows = [(path(name), tag("code", fingerprint)) for name, fingerprint in prints]
    return [
        table("Fingerprints", [Column("folder"), Column("sha256")], rows, stack=True),
        table("Versions that shape bytes", [Column("what"), Column("version")], versions),
    ]

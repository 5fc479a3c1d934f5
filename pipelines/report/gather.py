"""The numbers of a run: its manifests, and what its Parquet files say of the documents.

Files are read a row group at a time and nothing is kept but counts and a few examples, so memory does not follow the
size of the run. The texts of documents are not read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import stages
from pipelines.jobs import Run
from pipelines.report.duplicates import Duplicates, find_duplicates
from pipelines.report.reading import tables
from pipelines.report.values import Values
from pipelines.run import RUN_FACTS
from pipelines.shard.job import read_view
from schemas import storage
from schemas.config import Bounds, Config
from schemas.manifest import ShardManifest, StageManifest

EXAMPLES = 3  # of each reason
_LANGUAGES = 1000  # names counted; a source may name its languages itself
OTHER = "(other names)"
_RULE_DETAIL = r"^(?P<rule>\w+) = (?P<value>[0-9.e+-]+), [<>]= "  # as ingest writes it
_TOKEN_DETAIL = r"^(?P<rule>\w+): (?P<value>[0-9.e+-]+), at "  # as tokenize does


@dataclass(frozen=True)
class Example:
    """One rejected document, or thing that could not become one."""

    source: str
    detail: str
    sample: str


@dataclass
class Rule:
    """What a rule measured: on the documents that passed ingest, and on those it was the first to reject."""

    bounds: Bounds
    passed: Values = field(default_factory=Values)
    rejected: Values = field(default_factory=Values)


@dataclass
class Measures:
    """What the Parquet files of a component say.

    characters, words, languages (documents, and their characters): of documents that passed ingest. token_rule: tokens
    of documents kept, without begin and end, and of those with too few or too many. examples: rejects by reason.
    """

    rules: dict[str, Rule]
    token_rule: Rule
    characters: Values = field(default_factory=Values)
    words: Values = field(default_factory=Values)
    languages: Counter[str] = field(default_factory=Counter)
    language_characters: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)


@dataclass(frozen=True)
class Component:
    """A component with the manifests of its finished stages; None: not finished."""

    name: str
    documents: StageManifest | None
    drops: StageManifest | None
    tokens: StageManifest | None
    measures: Measures


@dataclass(frozen=True)
class Numbers:
    """Everything the page is made from. facts: run.json, None when it is absent."""

    directory: str
    config: Config
    facts: Mapping[str, Any] | None
    tokenizer: StageManifest | None
    components: tuple[Component, ...]
    views: Mapping[int, ShardManifest | None]
    duplicates: Duplicates | None


def gather(run: Run, config: Config) -> Numbers:
    """Read a run.

    Raises:
        TokenmillError: a file that a manifest names is missing or damaged.
    """
    components = tuple(_component(run, config, name) for name in config.components)
    return Numbers(
        run.directory,
        config,
        _facts(run),
        stages.read_manifest(run, "tokenizer"),
        components,
        {length: read_view(run, length) for length in config.shard.sequence_lengths},
        find_duplicates(
            run, {one.name: one.documents for one in components}, {one.name: one.drops for one in components}
        ),
    )


def _facts(run: Run) -> dict[str, Any] | None:
    try:
        found = json.loads(storage.read_bytes(run.path(RUN_FACTS)))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _component(run: Run, config: Config, name: str) -> Component:
    token_bounds = Bounds(min=config.tokenize.min_tokens, max=config.tokenize.max_tokens)
    rules = {rule: Rule(bounds) for rule, bounds in config.rule_bounds(name).items()}
    measures = Measures(rules, Rule(token_bounds))
    component = Component(
        name,
        stages.read_manifest(run, "documents", name),
        stages.read_manifest(run, "dedup", name),
        stages.read_manifest(run, "tokens", name),
        measures,
    )
    if component.documents is not None:
        for table in tables(run, component.documents, "documents", ["language", "characters", "words", *rules]):
            _add_documents(measures, table)
        for table in tables(run, component.documents, "rejected", ["source", "reason", "detail", "sample"]):
            _add_rejects(measures, table, _RULE_DETAIL, rules)
    if component.tokens is not None:
        for table in tables(run, component.tokens, "tokens", ["count"]):
            measures.token_rule.passed.add(table["count"].to_numpy() - 2)  # without begin and end
        counted = {"min_tokens": measures.token_rule, "max_tokens": measures.token_rule}
        for table in tables(run, component.tokens, "rejected", ["source", "reason", "detail", "sample"]):
            _add_rejects(measures, table, _TOKEN_DETAIL, counted)
    return component


def _add_documents(measures: Measures, table: pa.Table) -> None:
    measures.characters.add(table["characters"].to_numpy())
    measures.words.add(table["words"].to_numpy())
    found = table.select(["language", "characters"]).group_by("language", use_threads=False)
    for row in found.aggregate([("characters", "count"), ("characters", "sum")]).to_pylist():
        known = row["language"] in measures.languages or len(measures.languages) < _LANGUAGES
        language = row["language"] if known else OTHER
        measures.languages[language] += row["characters_count"]
        measures.language_characters[language] += row["characters_sum"]
    for name, rule in measures.rules.items():
        if name in table.column_names:
            rule.passed.add(table[name].drop_null().to_numpy())


def _add_rejects(measures: Measures, table: pa.Table, pattern: str, rules: Mapping[str, Rule]) -> None:
    for reason in pc.unique(table["reason"]).to_pylist():
        shown = measures.examples.setdefault(reason, [])
        if reason in rules or len(shown) < EXAMPLES:
            rows = table.filter(pc.equal(table["reason"], reason))
            for row in rows.slice(0, EXAMPLES - len(shown)).to_pylist():
                shown.append(Example(row["source"], row["detail"], row["sample"]))
            if reason in rules:
                rules[reason].rejected.add(_values(rows["detail"], pattern, reason))


def _values(details: pa.ChunkedArray, pattern: str, rule: str) -> Any:
    """The measured values that rejects state, float64."""
    parts = pc.extract_regex(details, pattern)
    stated = pc.struct_field(parts, "value").filter(pc.equal(pc.struct_field(parts, "rule"), rule))
    return pc.cast(stated.drop_null(), pa.float64()).to_numpy()

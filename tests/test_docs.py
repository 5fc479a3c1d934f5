"""The documentation says what the code does: keys, defaults, columns, reasons, numbers, links, commands, examples."""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import loader.cli
import pipelines.cli
import trainer.cli
from pipelines import stages, supervise
from pipelines.dedup import candidates, job
from schemas import arrow, config, lock, manifest
from schemas.config import TokenizeConfig, load_config, parse_config
from schemas.rules import RULES
from tests.conftest import ROOT
from trainer.training.config import CheckpointConfig, RunConfig, StageConfig, Stop, ValidationConfig
from trainer.training.recovery import RecoveryConfig

PACKAGES = {"pipelines": pipelines, "loader": loader, "trainer": trainer}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next heading of the same level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$", page, re.MULTILINE)
    assert found, f"no heading {title!r}"
    rest = page[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", FENCE.sub(lambda code: " " * len(code[0]), rest), re.MULTILINE)
    return rest[: end.start()] if end else rest


# -- config.md ---------------------------------------------------------------------------------------------------

MODELS: dict[str, type[BaseModel]] = {
    "Top level": config.Config,
    "`components.<name>`": config.Component,
    "`components.<name>.sources[]`": config.Source,
    "`ingest`": config.Ingest,
    "`quality`": config.Quality,
    "`tokenizer`": config.TokenizerConfig,
    "`dedup`": config.Dedup,
    "`tokenize`": config.TokenizeConfig,
    "`shard`": config.Shard,
    "`validation`": config.Validation,
}


def shown_default(field: FieldInfo) -> str:
    """How the page writes a default: JSON, text without quotes."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


@pytest.mark.parametrize("title", MODELS)
def test_every_config_key_and_default_is_documented(title: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S.*?) \| ", section(read("docs/config.md"), title), re.MULTILINE)
    nested = {"ingest", "quality", "tokenizer", "dedup", "tokenize", "shard", "validation"}
    model = MODELS[title]
    expected = {
        name: shown_default(field)
        for name, field in model.model_fields.items()
        if model is not config.Config or name not in nested
    }
    if model is config.Component:
        expected |= {name: shown_default(field) for name, field in config.Bounds.model_fields.items()}
    assert len(rows) == len(dict(rows)), "a key stands twice"
    assert dict(rows) == expected


@pytest.mark.parametrize(
    ("page", "title", "model"),
    [
        ("training", "Top level", RunConfig),
        ("training", "`stop`", Stop),
        ("training", "`validation`", ValidationConfig),
        ("training", "`checkpoints`", CheckpointConfig),
        ("context_extension", "`stages`", StageConfig),
        ("recovery", "The rules", RecoveryConfig),
    ],
)
def test_every_key_of_the_training_config_is_documented(page: str, title: str, model: type[BaseModel]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S.*?) \| ", section(read(f"docs/{page}.md"), title), re.MULTILINE)
    # A part's defaults stand in a table of their own, or on another page.
    nested = {
        "optimizer": "V3's",
        "validation": "see below",
        "checkpoints": "see below",
        "mesh": "one process",
        "recovery": "see [recovery](recovery.md)",
        "monitor": "see [monitoring](monitoring.md)",
    }
    nested = nested if model is RunConfig else {}
    assert dict(rows) == {
        name: nested[name] if name in nested else shown_default(field) for name, field in model.model_fields.items()
    }
    assert len(rows) == len(dict(rows)), "a key stands twice"


def test_every_part_of_the_config_has_a_section() -> None:
    parts = {name for name, field in config.Config.model_fields.items() if not field.is_required()} - {"seed"}
    assert parts == {title.strip("`") for title in MODELS if re.fullmatch(r"`\w+`", title)}


@pytest.mark.parametrize("name", ["README.md", "docs/config.md"])
def test_example_configs_are_valid(name: str) -> None:
    import yaml  # noqa: PLC0415

    examples = [yaml.safe_load(code) for kind, code in FENCE.findall(read(name)) if kind == "yaml"]
    assert examples
    for example in examples:
        parse_config(example, name)
    load_config(ROOT / "configs/demo.yaml")


# -- formats.md --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("plan/units.parquet", arrow.UNITS),
        ("documents", arrow.documents_schema(config.Dedup().permutations, [])),
        ("rejected", arrow.REJECTED),
        ("drops", arrow.DROPS),
        ("tokens", arrow.tokens_schema("uint16")),
        ("provenance", arrow.PROVENANCE),
        ("units.parquet of a view", arrow.PACKED_UNITS),
    ],
)
def test_every_column_is_documented(title: str, schema: pa.Schema) -> None:
    def shown(kind: pa.DataType) -> str:
        return "list of struct" if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) else str(kind)

    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section(read("docs/formats.md"), title), re.MULTILINE)
    assert rows == [(field.name, shown(field.type)) for field in schema]


def models_within(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        inner = [field.annotation, *get_args(field.annotation)]
        yield from (found for part in inner if isinstance(part, type) and issubclass(part, BaseModel)
                    for found in models_within(part))  # fmt: skip


@pytest.mark.parametrize("model", [manifest.StageManifest, manifest.ShardManifest])
def test_every_manifest_field_is_documented(model: type[BaseModel]) -> None:
    text = section(read("docs/formats.md"), model.__name__)
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", text))))
    for part in models_within(model):
        fields = {field.serialization_alias or name for name, field in part.model_fields.items()}
        assert fields <= named, f"{part.__name__}: {sorted(fields - named)}"


# -- conservation.md ---------------------------------------------------------------------------------------------


def reasons_in_code() -> set[str]:
    """Every reason the sources and ingest reject with: text where `Reject`, `_refused` and `Damaged` take one."""
    place = {"Reject": 2, "_refused": 1, "Damaged": 0}
    found: set[str] = set()
    for path in [*(ROOT / "pipelines/sources").glob("*.py"), ROOT / "pipelines/ingest.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in place:
                given = node.args[place[node.func.id]]
                if isinstance(given, ast.Constant):
                    found.add(str(given.value))
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
                # reason = "truncated" if … else "corrupt"
                chosen = node.value
                if isinstance(chosen, ast.IfExp):
                    found |= {str(ast.literal_eval(part)) for part in (chosen.body, chosen.orelse)}
    return found


def test_every_reason_is_documented() -> None:
    text = section(read("docs/conservation.md"), "Every reason")
    listed = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert listed == reasons_in_code()
    assert set(TokenizeConfig.model_fields) <= set(re.findall(r"`(\w+)`", text))
    assert {"exact_duplicate", "near_duplicate"} <= set(re.findall(r"`(\w+)`", text))
    assert all(f"`{rule}`" in read("docs/quality.md") for rule in RULES)


@pytest.mark.parametrize("name", ["docs/conservation.md", "docs/formats.md"])
def test_example_queries_run(name: str, small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = "\n".join(code for kind, code in FENCE.findall(read(name)) if kind == "python")
    assert "runs/demo" in examples
    exec(examples.replace("runs/demo", str(small_run)).replace("shards/2048", "shards/256"), {})
    assert "Traceback" not in capsys.readouterr().err


# -- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("docs/determinism.md", f"heartbeat renewed every | {lock.HEARTBEAT:g} s"),
        ("docs/determinism.md", f"more than {lock.STALE:g} s old"),
        ("docs/operations.md", f"a worker died {supervise.MAX_FRUITLESS} times in a row"),
        (
            "docs/decisions.md",
            f"below {stages.SMALL_BYTES >> 20} MiB of input, or {stages.SMALL_DOCUMENTS:,} documents",
        ),
        ("docs/dedup.md", f"the {candidates.NEAREST} earlier centres"),
        ("docs/dedup.md", f"at most {candidates.WINDOW}."),
        ("docs/dedup.md", f"Up to {job.SMALL_EDGES // 1_000_000} million edges"),
        ("docs/dedup.md", f"within {job.MAX_ROUNDS} rounds"),
        ("docs/dedup.md", f"from {job.LARGE_CLUSTER} drops on"),
    ],
)
def test_numbers_are_those_of_the_code(name: str, sentence: str) -> None:
    assert sentence in " ".join(read(name).split())


def test_probabilities_of_a_shared_bucket() -> None:
    rows = re.findall(
        r"^\| (?:J|shares a bucket) \| (.*) \|$", section(read("docs/dedup.md"), "Candidates"), re.MULTILINE
    )
    similarities, probabilities = ([float(cell) for cell in row.split("|")] for row in rows)
    dedup = config.Dedup()
    for similarity, stated in zip(similarities, probabilities, strict=True):
        shared = 1 - (1 - similarity ** (dedup.permutations // dedup.bands)) ** dedup.bands
        assert shared == pytest.approx(stated, abs=0.0006)


def sentences_in_code() -> str:
    """Every text constant of the packages, one a line; what is filled in stands as `…`."""
    found: list[str] = []
    for package in ("pipelines", "loader", "schemas"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_error_sentences_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", section(read("docs/operations.md"), "What the sentences mean"), re.MULTILINE)
    quoted = [quote for row in rows for quote in re.findall(r"`(.*?)`", row)]
    assert len(quoted) > 20
    code = sentences_in_code()
    missing = [quote for quote in quoted if not all(part in code for part in re.split(r"…|\d+", quote))]
    assert not missing


# -- links and commands ------------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


def test_every_page_is_linked_from_the_readme() -> None:
    assert {page.name for page in PAGES[1:]} == set(
        re.findall(r"^- \[\w+\]\(docs/(\w+\.md)\)", read("README.md"), re.MULTILINE)
    )


def subcommands(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """The options of each command of a parser."""
    actions: Any = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: set(command._option_string_actions) for name, command in actions.choices.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    known = {name: subcommands(package.cli.parser()) for name, package in PACKAGES.items()}
    text = page.read_text(encoding="utf-8")
    for package, command, rest in re.findall(r"python -m (pipelines|loader|trainer) ([a-z]+)([^`|\n]*)", text):
        assert command in known[package], f"{package} {command}"
        options = set(re.findall(r"--[a-z][a-z-]*(?![\w-])", rest.split("#")[0]))
        assert options <= known[package][command], (package, command, options)
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for script in re.findall(r"python (benchmarks/\w+\.py)", text):
        assert (ROOT / script).exists(), script


def test_the_readme_names_every_command() -> None:
    for name, package in PACKAGES.items():
        for command in subcommands(package.cli.parser()):
            assert f"`python -m {name} {command} " in read("README.md")


def test_ci_runs_the_readmes_test_command() -> None:
    assert "\nmake test " in read("README.md")
    assert re.search(r"^make test\b", read(".ci/run"), re.MULTILINE)

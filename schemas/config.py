"""The config of a run: typed models, defaults, and errors that name the key, the file and what is allowed.

`load_config(path)` reads YAML. An unknown or ill-typed key is a `Refused` error, never a warning.
"""

from __future__ import annotations

import difflib
import os
import sysconfig
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas import yaml_config
from schemas.order import integer_weights
from schemas.rules import RULES, RuleKind
from schemas.yaml_config import Strict

ComponentKind = Literal["code", "natural_language"]
SourceFormat = Literal["files", "jsonl", "parquet", "tar"]
SurvivorKey = Literal["source_priority", "quality", "length", "id"]


class Source(Strict):
    """One place documents come from.

    path: a folder, file or glob; local, gs:// or any filesystem Beam knows. It may begin with ~, {stdlib} (the running
        Python's standard library) or {site_packages} (where its packages are installed).
    format: `files` (a document a file), `jsonl` (plain, .gz, .zst), `parquet`, `tar` (.gz, .zst; a document a member).
    include, exclude: for `files` and `tar`, glob patterns on the path below `path` (`**` crosses folders).
    text: for `jsonl` and `parquet`, the column that holds the text.
    metadata: for `jsonl` and `parquet`, columns kept beside each document.
    labels: fixed values kept beside each document of the source, such as a repository or a licence.
    quality: for `jsonl` and `parquet`, a numeric column; among near-duplicates the higher is kept.
    priority: among near-duplicates, documents of a source with a higher priority are kept.
    """

    path: str
    format: SourceFormat
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()
    text: str = "text"
    metadata: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    quality: str | None = None
    priority: int = 0

    def expanded(self) -> Source:
        """This source with `path` as it stands on this machine."""
        places = {"{stdlib}": "stdlib", "{site_packages}": "purelib"}
        for place, name in places.items():
            if self.path.startswith(place):
                return self.model_copy(update={"path": sysconfig.get_path(name) + self.path.removeprefix(place)})
        return self.model_copy(update={"path": os.path.expanduser(self.path)})

    @model_validator(mode="after")
    def _columns_fit_the_format(self) -> Source:
        columns, trees = ("text", "metadata", "quality"), ("include", "exclude")
        for name in columns if self.format in ("files", "tar") else trees:
            if getattr(self, name) != type(self).model_fields[name].default:
                what = "names a column, and" if name in columns else "selects files of a tree, and"
                raise ValueError(f"{name} {what} format {self.format!r} has none")
        return self


class Bounds(Strict):
    """Thresholds of one quality rule: a document is rejected below `min` or above `max`."""

    min: float | None = None
    max: float | None = None


class Component(Strict):
    """A named source mix with a weight.

    weight: share of the records, a decimal; the weights of all components sum to 1.
    kind: how text is cleaned and which rules apply; by default `code` for the one called so, else natural_language.
    max_repeats: how often, at most, a packed sequence may occur in one epoch so that the weight can be held.
    fim_rate: share of documents rewritten for fill-in-the-middle (PSM).
    quality: rule name to bounds, or `false` to switch the rule off (`quality: {rules: false}` switches all off).
    """

    weight: Decimal = Field(gt=0, le=1)
    kind: ComponentKind | None = None
    sources: tuple[Source, ...] = Field(min_length=1)
    max_repeats: int = Field(default=1, ge=1, le=1000)
    fim_rate: float = Field(default=0.0, ge=0, le=1)
    quality: dict[str, Bounds | Literal[False]] = Field(default_factory=dict)

    @field_validator("weight", mode="before")
    @classmethod
    def _decimal_from_text(cls, value: Any) -> Any:
        try:
            return Decimal("none" if isinstance(value, bool) else str(value))
        except InvalidOperation:
            raise ValueError("a weight is a decimal number such as 0.87") from None

    @field_validator("quality")
    @classmethod
    def _known_rules(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name not in RULES:
                close = difflib.get_close_matches(name, RULES, n=3) or sorted(RULES)
                raise ValueError(f"unknown quality rule {name!r}; did you mean {', '.join(close)}?")
        return value


class Quality(Strict):
    """rules: whether the quality rules run at all (their values are then no columns worth reading)."""

    rules: bool = True


class TokenizerConfig(Strict):
    """A SentencePiece model: trained on a mixture sample, or given.

    vocab_size: pieces of a trained model, the reserved ids included.
    model: path of an existing lossless SentencePiece model; nothing is trained then.
    sample_characters: text the training sees, drawn from the components by weight.
    """

    vocab_size: int = Field(default=32000, ge=300, le=1_000_000)
    model: str | None = None
    sample_characters: int = Field(default=20_000_000, ge=10_000)


def _directory(path: str) -> str:
    """A run directory as it stands on this machine, without a slash at its end."""
    return path.rstrip("/") if "://" in path else os.path.abspath(os.path.expanduser(path))


class Dedup(Strict):
    """Exact and near-duplicate removal.

    threshold: least estimated Jaccard similarity of two signatures that counts as a near-duplicate.
    permutations, bands: signature length and LSH bands; bands divides permutations.
    shingle: tokens a shingle.
    min_tokens: documents with fewer tokens are compared exactly only.
    keep: what decides which of two near-duplicates stays, most important first.
    check: what a near-duplicate must be by: `signature` (the estimate reaches the threshold) or `text` (and so does the
        true Jaccard similarity of the two texts' shingles, which is then the one stored).
    against: directories of earlier runs, finished up to dedup, with the same permutations and shingle. What they kept
        counts as kept already: copies and near-duplicates of it are dropped, with `RUN#id` as the kept one's id, RUN
        being the folder's base name.
    max_cluster_share, max_source_share: alarms, as shares of all documents and of a source's documents.
    """

    enabled: bool = True
    threshold: float = Field(default=0.8, gt=0, le=1)
    permutations: int = Field(default=256, ge=16, le=1024)
    bands: int = Field(default=32, ge=1, le=1024)
    shingle: int = Field(default=5, ge=1, le=64)
    min_tokens: int = Field(default=10, ge=0)
    keep: tuple[SurvivorKey, ...] = ("source_priority", "quality", "length", "id")
    check: Literal["signature", "text"] = "signature"
    against: tuple[str, ...] = ()
    max_cluster_share: float = Field(default=0.01, gt=0, le=1)
    max_source_share: float = Field(default=0.3, gt=0, le=1)

    @model_validator(mode="after")
    def _bands_divide(self) -> Dedup:
        if self.permutations % self.bands:
            raise ValueError(f"bands ({self.bands}) must divide permutations ({self.permutations})")
        if len(set(self.keep)) != len(self.keep):
            raise ValueError("keep names a key twice")
        return self

    @model_validator(mode="after")
    def _against_has_names(self) -> Dedup:
        if self.against and not self.enabled:
            raise ValueError("against names earlier runs, but nothing is compared with them while enabled is false")
        names = [directory.rpartition("/")[2] for directory in map(_directory, self.against)]
        if "" in names:
            raise ValueError("against: a run directory has a name")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"against names two directories called {twice[0]!r}, and ids of their documents would look alike; "
                f"rename one"
            )
        return self

    def earlier(self) -> dict[str, str]:
        """The absolute directory of each run in `against`, by its base name."""
        return {path.rpartition("/")[2]: path for path in map(_directory, self.against)}


class TokenizeConfig(Strict):
    """Rules that count tokens; a document outside them is rejected with its count. `null` switches one off."""

    min_tokens: int | None = Field(default=50, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    min_unique_tokens: int | None = Field(default=10, ge=0)
    min_characters_per_token: float | None = Field(default=None, ge=0)


class Shard(Strict):
    """Packing, mixing and writing.

    sequence_lengths: one view each; a record holds sequence_length + 1 tokens.
    packing: `best_fit` keeps documents whole when they fit; `concat` lays them end to end.
    lanes: shards read side by side; bounds the hosts that can read a view.
    shard_bytes: the size a shard file aims at.
    shuffle: `files` spills to disk (one machine), `runner` uses the runner's GroupByKey (clusters); same bytes.
    """

    sequence_lengths: tuple[Annotated[int, Field(ge=16, le=1 << 24)], ...] = Field(default=(4096,), min_length=1)
    packing: Literal["best_fit", "concat"] = "best_fit"
    lanes: int = Field(default=16, ge=1, le=4096)
    shard_bytes: int = Field(default=134_217_728, ge=4096)
    shuffle: Literal["files", "runner"] = "files"

    @field_validator("sequence_lengths")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a sequence length is listed twice")
        return value


class Validation(Strict):
    """fraction: share of documents held out, chosen by a keyed hash of their content; 0 holds out none."""

    fraction: float = Field(default=0.001, ge=0, lt=1)


class Ingest(Strict):
    """Reading.

    unit_bytes: input bytes a unit aims at.
    max_rejected_fraction: share of a source's documents that may be unreadable; above it the run stops.
    """

    unit_bytes: int = Field(default=16_777_216, ge=1024)
    max_rejected_fraction: float = Field(default=0.1, ge=0, le=1)


class Config(Strict):
    """Everything a run is made from. Keys with a default may be left out."""

    seed: int = Field(default=17, ge=0, lt=1 << 63)
    components: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Component] = Field(min_length=1)
    ingest: Ingest = Ingest()
    quality: Quality = Quality()
    tokenizer: TokenizerConfig = TokenizerConfig()
    dedup: Dedup = Dedup()
    tokenize: TokenizeConfig = TokenizeConfig()
    shard: Shard = Shard()
    validation: Validation = Validation()

    @field_validator("components")
    @classmethod
    def _kinds_and_weights(cls, value: dict[str, Component]) -> dict[str, Component]:
        total = sum(component.weight for component in value.values())
        if total != 1:
            listed = ", ".join(f"{name} {component.weight}" for name, component in value.items())
            raise ValueError(f"the weights sum to {total}, not 1 ({listed})")
        integer_weights([component.weight for component in value.values()])
        return {
            name: component.model_copy(update={"kind": "code" if name == "code" else "natural_language"})
            if component.kind is None
            else component
            for name, component in value.items()
        }

    def kind(self, component: str) -> ComponentKind:
        """The kind of a component; set for every one by validation."""
        kind = self.components[component].kind
        assert kind is not None
        return kind

    def rule_bounds(self, component: str) -> dict[str, Bounds]:
        """The rules in force for a component with their thresholds, in catalogue order."""
        kind: RuleKind = self.kind(component)
        chosen = self.components[component].quality
        bounds: dict[str, Bounds] = {}
        for name, rule in RULES.items():
            own = chosen.get(name)
            if not self.quality.rules or own is False or kind not in rule.kinds:
                continue
            if own is None and not rule.default:
                continue
            bounds[name] = own if isinstance(own, Bounds) else Bounds(min=rule.min, max=rule.max)
        return bounds

    def dump_yaml(self) -> str:
        """The resolved config, every default written out; `load_config` reads it back.

        Left out is `shard.shuffle`: how the bytes were moved is a matter of one run (run.json has it) and no matter of
        what they are.
        """
        return yaml_config.dump_yaml(self.model_dump(mode="json", exclude={"shard": {"shuffle"}}))


def load_config(path: str | Path) -> Config:
    """Read and validate a YAML config.

    Raises:
        Refused: the file is absent, not YAML, or a key is unknown, ill-typed or out of range.
    """
    return yaml_config.load(Config, path)


def parse_yaml(data: bytes, origin: str) -> Config:
    """Validate a config as YAML bytes read from `origin` (named in errors). Raises Refused."""
    return yaml_config.parse_yaml(Config, data, origin)


def parse_config(raw: Any, origin: str) -> Config:
    """Validate a config read from `origin` (named in errors). Raises Refused."""
    return yaml_config.parse(Config, raw, origin)

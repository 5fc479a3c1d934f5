"""The tokenizer stage: a SentencePiece model trained on a mixture sample of the kept documents, or a given one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines import stages
from pipelines.documents import checked_files, kept_documents
from pipelines.jobs import Each, Run, run_steps
from pipelines.keys import document_keys
from pipelines.parquet import read_table
from pipelines.plan import read_index
from pipelines.stages import Context, Receipt
from pipelines.tokenizer import Tokenizer, train
from schemas import manifest, storage
from schemas.config import Config
from schemas.errors import Refused
from schemas.manifest import StageManifest, TokenizerInfo
from schemas.permutation import key64, mix64

FORMAT = 2
MODEL = "tokenizer.model"
SAMPLED_UNITS = 1024
"""From how many units of a component the sample is taken, more only where these hold too little: of a million, each
would give the first words of one document, all would be read, and one process would open a million files."""
_SAMPLE = pa.schema([pa.field("text", pa.string(), nullable=False)])


def fingerprint(config: Config, drops: str) -> str:
    """Identifies the model: the given file's content, or what it is trained on and how."""
    content: dict[str, object] = {
        "stage": "tokenizer",
        "format": FORMAT,
        "versions": stages.versions("sentencepiece"),
    }
    if config.tokenizer.model is not None:
        content["model"] = hashlib.sha256(given_model(config.tokenizer.model)).hexdigest()
    else:
        content |= {
            "drops": drops,
            "vocab_size": config.tokenizer.vocab_size,
            "sample_characters": config.tokenizer.sample_characters,
            "weights": [(name, str(component.weight)) for name, component in config.components.items()],
            "seed": config.seed,
        }
    return manifest.fingerprint(content)


def given_model(path: str) -> bytes:
    """The bytes of a given model. Raises Refused when there is none."""
    try:
        return storage.read_bytes(path)
    except OSError as error:
        raise Refused(f"tokenizer.model: {path}: cannot be read: {error.strerror or error}") from None


def check_given_model(config: Config) -> None:
    """Refuse a given model that cannot be read or is not lossless, before anything is done."""
    if config.tokenizer.model is not None:
        Tokenizer(given_model(config.tokenizer.model))


@dataclass(frozen=True)
class SampleUnit:
    """The task: documents of a unit, by ascending key, up to the unit's share of the sample."""

    folder: str
    seed: int
    quota: dict[str, float]  # share of a component's characters that the sample takes

    def __call__(self, run: Run, task: int) -> None:
        """Write the unit's part of the sample."""
        share = self.quota[read_index(run).unit(task).component]
        chosen: list[str] = []
        for table in kept_documents(run, task, ["text", "hash", "characters"]):
            budget = int(share * sum(table["characters"].to_pylist()))
            order = np.argsort(document_keys(table["hash"], self.seed, "tokenizer sample"), kind="stable")
            for row in order.tolist():
                if budget <= 0:
                    break
                text = table["text"][row].as_py()[:budget]
                budget -= len(text)
                chosen.append(text)
        path = run.work(self.folder, f"sample-{task:07d}.parquet")
        file = stages.commit_table(run, path, [pa.table({"text": chosen}, schema=_SAMPLE)], _SAMPLE)
        counts = {"documents": len(chosen), "characters": sum(map(len, chosen))}
        unit = manifest.Unit(unit=task, counts=counts)
        stages.write_receipt(run, self.folder, Receipt(task=task, files=(file,), unit=unit))


@dataclass(frozen=True)
class TrainModel:
    """The task: one model from the sample, in the order of the units."""

    folder: str
    units: tuple[int, ...]
    vocab_size: int

    def __call__(self, run: Run, task: int) -> None:
        """Train and commit the model."""
        if storage.size_of(run.path("tokenizer", MODEL)) is None:
            run.commit_bytes(run.path("tokenizer", MODEL), train(self._texts(run), self.vocab_size))

    def _texts(self, run: Run) -> Iterator[str]:
        for unit in self.units:
            yield from read_table(run.work(self.folder, f"sample-{unit:07d}.parquet"))["text"].to_pylist()


def run(context: Context) -> None:
    """Train the model, or copy the given one, and write the manifest."""
    config, plan = context.config, context.plan
    drops: dict[str, str] = {}
    for name in plan.by_component:
        checked_files(context.run, "documents", name)
        drops[name] = checked_files(context.run, "dedup", name).fingerprint
    expected = fingerprint(config, next(iter(drops.values())))
    done = stages.read_manifest(context.run, "tokenizer")
    if done is not None and done.fingerprint == expected:
        return
    counts: dict[str, int] = {}
    if config.tokenizer.model is not None:
        context.run.commit_bytes(context.run.path("tokenizer", MODEL), given_model(config.tokenizer.model))
    else:
        counts = _train(context, expected)
    model = storage.read_bytes(context.run.path("tokenizer", MODEL))
    tokenizer = Tokenizer(model)
    info = TokenizerInfo(
        fingerprint=expected,
        vocab_size=tokenizer.vocab_size,
        begin=tokenizer.begin,
        end=tokenizer.end,
        pad=tokenizer.pad,
        fim_begin=tokenizer.fim_begin,
        fim_hole=tokenizer.fim_hole,
        fim_end=tokenizer.fim_end,
    )
    whole = StageManifest(
        stage="tokenizer",
        fingerprint=expected,
        inputs={} if config.tokenizer.model is not None else drops,
        versions=stages.versions("sentencepiece"),
        counts=counts,
        files=(
            manifest.File(
                path=MODEL,
                records=tokenizer.vocab_size,
                bytes=len(model),
                sha256=hashlib.sha256(model).hexdigest(),
            ),
        ),
        details=info.model_dump(),
    )
    stages.write_manifest(context.run, whole, "tokenizer")


def _train(context: Context, expected: str) -> dict[str, int]:
    config = context.config
    folder = stages.work_folder("tokenizer", expected)
    chosen: dict[str, dict[int, int]] = {}
    for name, tasks in context.plan.by_component.items():
        documents = stages.need_manifest(context.run, "documents", name)
        characters = {task: unit.counts.get("characters", 0) for task, unit in zip(tasks, documents.units, strict=True)}
        wanted = float(config.components[name].weight) * config.tokenizer.sample_characters
        chosen[name] = sampled(characters, wanted, config.seed)
    units = tuple(unit for of_component in chosen.values() for unit in of_component)
    context.say("stage", name="tokenizer", tasks=len(units), folders=[folder])
    have = {name: sum(of_component.values()) for name, of_component in chosen.items()}
    sample = SampleUnit(folder, config.seed, quotas(config, have))
    run_steps(
        context.run,
        [
            Each("sample", stages.unfinished(context.run, folder, units), sample),
            Each("train", [0], TrainModel(folder, units, config.tokenizer.vocab_size)),
        ],
        context.options,
        context.small,
    )
    return stages.total(receipt.unit.counts for receipt in stages.read_receipts(context.run, folder, units))


def sampled(characters: Mapping[int, int], wanted: float, seed: int) -> dict[int, int]:
    """The units of a component that the sample is taken from, ascending: by a key, `SAMPLED_UNITS` of them, and more
    until they have the wanted characters.

    characters: of each unit, by its task number.
    """
    units = np.fromiter(characters, np.int64)
    keys = mix64(units.astype(np.uint64) ^ np.uint64(key64(f"tokenmill units tokenizer sample seed {seed}")))
    order = units[np.argsort(keys)]
    have = np.cumsum([characters[unit] for unit in order.tolist()])
    count = max(SAMPLED_UNITS, int(np.searchsorted(have, wanted)) + 1)
    return {unit: characters[unit] for unit in sorted(order[:count].tolist())}


def quotas(config: Config, have: Mapping[str, int]) -> dict[str, float]:
    """The share of its characters that each component's units give: by weight, bounded by the scarcest component."""
    weights = {name: float(component.weight) for name, component in config.components.items()}
    whole = min([config.tokenizer.sample_characters, *(have[name] / weights[name] for name in weights)])
    return {name: min(1.0, whole * weights[name] / max(have[name], 1)) for name in weights}


@lru_cache(maxsize=1)
def load_tokenizer(run: Run) -> Tokenizer:
    """The run's tokenizer, loaded once a process. Raises TokenmillError when it is not what its manifest says."""
    path = run.path("tokenizer", MODEL)
    stages.check_sha256(path, stages.need_manifest(run, "tokenizer").files[0].sha256, "tokenizer")
    return Tokenizer(storage.read_bytes(path))

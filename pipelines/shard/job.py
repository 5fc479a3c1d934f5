"""The shard stage: pack, count, plan the order, shuffle once, write each view's manifest."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines import stages
from pipelines.documents import checked_files
from pipelines.jobs import Each, Exchange, run_steps
from pipelines.shard.layout import PackUnit, validation_threshold
from pipelines.shard.write import FIRST, MIX, SPLITS, Mix, ShardWriter, read_mix
from pipelines.stages import Context, Receipt
from schemas import manifest, storage
from schemas.arrow import PACKED_UNITS
from schemas.config import Config
from schemas.errors import TokenmillError
from schemas.manifest import (
    ComponentCounts,
    Conservation,
    DocumentLaw,
    File,
    OrderComponent,
    OrderInfo,
    ShardFile,
    ShardManifest,
    Splits,
    StageManifest,
    TokenizerInfo,
    TokenLaw,
    TrainSplit,
    UnitsFile,
    ValidationSplit,
)
from schemas.order import ORDER_VERSION, PERMUTATION, Order, integer_weights, plan_sizes
from schemas.record import record_size, token_dtype

FORMAT = 2  # raised when the same config and input would give other files


def fingerprint(config: Config, sequence_length: int, tokens: dict[str, str]) -> str:
    """Identifies a view: the tokens, the packing, the mixture and the order."""
    return manifest.fingerprint(
        {
            "stage": "shard",
            "format": FORMAT,
            "order": [ORDER_VERSION, PERMUTATION],
            "sequence_length": sequence_length,
            "tokens": list(tokens.items()),
            "shard": config.shard.model_dump(mode="json", include={"packing", "lanes", "shard_bytes"}),
            "components": [(name, str(c.weight), c.max_repeats) for name, c in config.components.items()],
            "validation": config.validation.model_dump(),
            "seed": config.seed,
            "versions": stages.versions("pyarrow"),
        }
    )


def view_folder(sequence_length: int) -> str:
    """The folder of a view below the run directory."""
    return f"shards/{sequence_length}"


def read_view(run: stages.Run, sequence_length: int) -> ShardManifest | None:
    """A view's manifest, or None when it is not whole."""
    path = run.path(view_folder(sequence_length), stages.MANIFEST)
    try:
        return manifest.parse(ShardManifest, storage.read_bytes(path), path)
    except FileNotFoundError:
        return None


def run(context: Context) -> None:
    """Write the views that are not yet there.

    Raises:
        TokenmillError: a component has too little for the mixture, or an input is not what its manifest says.
    """
    tokens = {name: checked_files(context.run, "tokens", name) for name in context.plan.by_component}
    for length in context.config.shard.sequence_lengths:
        expected = fingerprint(context.config, length, {name: whole.fingerprint for name, whole in tokens.items()})
        done = read_view(context.run, length)
        if done is None or done.fingerprint != expected:
            _View(context, length, expected, tokens).make()


class _View:
    """One view on its way to its shards."""

    def __init__(self, context: Context, length: int, expected: str, tokens: dict[str, StageManifest]) -> None:
        self._context, self._run, self._config = context, context.run, context.config
        self._length, self._expected, self._tokens = length, expected, tokens
        details = stages.need_manifest(context.run, "tokenizer").details
        self._tokenizer = TokenizerInfo.model_validate(details)
        self._dtype = token_dtype(self._tokenizer.vocab_size).name
        self._layouts = stages.work_folder(f"pack-{length}", expected)
        self._folder = stages.work_folder(f"shard-{length}", expected)
        self._units = range(len(context.plan.units))

    def make(self) -> None:
        """Pack, plan, shuffle, and write the manifest last."""
        self._pack()
        packed = stages.read_receipts(self._run, self._layouts, self._units)
        mix = self._mix(packed)
        writer = ShardWriter(
            self._folder,
            self._layouts,
            view_folder(self._length),
            self._length + 1,
            self._dtype,
            self._tokenizer.pad,
        )
        shards = range(mix.shards)
        self._context.say("stage", name=f"shard {self._length}", tasks=len(shards), folders=[self._folder])
        if stages.unfinished(self._run, self._folder, shards):
            step = Exchange(
                f"shards {self._length}",
                len(self._units),
                len(shards),
                writer.emit,
                writer.receive,
                self._folder,
                partial(_receipt, self._folder),
                self._config.shard.shuffle,
            )
            run_steps(self._run, [step], self._context.options, self._context.small)
        self._write_manifest(mix, packed, stages.read_receipts(self._run, self._folder, shards))

    def _pack(self) -> None:
        fraction = self._config.validation.fraction
        thresholds = {
            name: validation_threshold(fraction, whole.details["least_key"]) for name, whole in self._tokens.items()
        }
        todo = stages.unfinished(self._run, self._layouts, self._units)
        self._context.say("stage", name=f"pack {self._length}", tasks=len(self._units), folders=[self._layouts])
        if todo:
            work = PackUnit(self._layouts, self._length + 1, self._config.shard.packing, thresholds)
            documents = sum(whole.counts["kept"] for whole in self._tokens.values())
            few = documents < stages.SMALL_DOCUMENTS
            run_steps(self._run, [Each(f"pack {self._length}", todo, work)], self._context.options, few)

    def _mix(self, packed: list[Receipt]) -> Mix:
        """Choose the sizes and write the mix for the workers."""
        names = list(self._context.plan.by_component)
        counts = np.array(
            [[receipt.unit.counts[f"{split}_sequences"] for split in SPLITS] for receipt in packed], "<i8"
        )
        first, totals = np.zeros_like(counts), dict[str, dict[str, int]]({split: {} for split in SPLITS})
        for name, tasks in self._context.plan.by_component.items():
            ends = np.cumsum(counts[tasks.start : tasks.stop], axis=0)
            first[tasks.start + 1 : tasks.stop] = ends[:-1]
            for split, total in zip(SPLITS, ends[-1].tolist(), strict=True):
                totals[split][name] = total
        for name in names:
            if not totals["train"][name]:
                raise TokenmillError(
                    f"components.{name}: all {self._tokens[name].counts['kept']} documents are held out for "
                    f"validation, none is left to train on; set validation.fraction: 0, or give it more documents"
                )
        components = [self._config.components[name] for name in names]
        available = [totals["train"][name] for name in names]
        record_bytes = record_size(self._length, self._dtype)
        sizes = plan_sizes(
            available,
            integer_weights([component.weight for component in components]),
            [component.max_repeats for component in components],
            lanes=self._config.shard.lanes,
            record_bytes=record_bytes,
            shard_bytes=self._config.shard.shard_bytes,
            names=names,
        )
        order = Order(
            self._config.seed,
            sizes.lanes,
            sizes.groups,
            sizes.rows,
            sizes.weights,
            tuple(available),
            tuple(names),
        )
        a_shard = max(1, self._config.shard.shard_bytes // record_bytes)
        rows = {name: _cut(totals["validation"][name], a_shard) for name in names}
        mix = Mix(order, rows)
        content = {
            "order": {
                key: asdict(order)[key] for key in ("seed", "lanes", "groups", "rows", "weights", "available", "names")
            },
            "validation_rows": mix.validation_rows,
        }
        self._run.commit_bytes(self._run.work(self._folder, FIRST), first.tobytes())
        self._run.commit_bytes(self._run.work(self._folder, MIX), json.dumps(content).encode())
        read_mix.cache_clear()
        return mix

    def _write_manifest(self, mix: Mix, packed: list[Receipt], written: list[Receipt]) -> None:
        order, names = mix.order, mix.order.names
        counts = stages.total(receipt.unit.counts for receipt in written)
        shards = [ShardFile(**receipt.files[0].model_dump(), **receipt.facts) for receipt in written]
        train = shards[: mix.train_shards]
        validation: dict[str, ValidationSplit] = {}
        for name, rows in mix.validation_rows.items():
            at = mix.first_validation_shard(name)
            validation[name] = ValidationSplit(records=sum(rows), files=tuple(shards[at : at + len(rows)]))
        tile, train_tokens = sum(order.weights), sum(counts[f"train.{name}"] for name in names)
        components: dict[str, ComponentCounts] = {}
        for c, name in enumerate(names):
            used = min(order.counts[c], order.available[c])
            components[name] = ComponentCounts(
                documents=self._tokens[name].counts["kept"],
                tokens=self._tokens[name].counts["tokens"],
                available=order.available[c],
                used=used,
                unused=order.available[c] - used,
                repeats=-(-order.counts[c] // order.available[c]),
                token_share=counts[f"train.{name}"] / train_tokens,
            )
        whole = ShardManifest(
            fingerprint=self._expected,
            sequence_length=self._length,
            token_dtype="uint16" if self._dtype == "uint16" else "int32",
            packing=self._config.shard.packing,
            tokenizer=self._tokenizer,
            order=OrderInfo(
                permutation=PERMUTATION,
                seed=order.seed,
                period=order.period,
                components=tuple(
                    OrderComponent(
                        name=name,
                        weight=order.weights[c],
                        requested=float(Decimal(self._config.components[name].weight)),
                        realised=order.weights[c] / tile,
                    )
                    for c, name in enumerate(names)
                ),
            ),
            components=components,
            splits=Splits(
                train=TrainSplit(
                    lanes=order.lanes,
                    groups=order.groups,
                    rows=order.rows,
                    records=order.records,
                    files=tuple(train),
                ),
                validation=validation,
            ),
            provenance=tuple(receipt.files[1] for receipt in written),
            units=self._write_units(packed),
            conservation=self._conservation(counts),
            versions=stages.versions("pyarrow", "numpy"),
        )
        records = order.records + sum(split.records for split in validation.values())
        if not whole.conservation.documents.holds() or not whole.conservation.tokens.holds(records, self._length):
            raise TokenmillError(
                f"{view_folder(self._length)}: documents or tokens do not add up ({whole.conservation}); "
                f"this is a defect, please report it"
            )
        self._run.commit_bytes(self._run.path(view_folder(self._length), stages.MANIFEST), manifest.dump(whole))

    def _write_units(self, packed: list[Receipt]) -> UnitsFile:
        rows = [
            {"component": unit.component, "unit": unit.unit, **receipt.unit.counts}
            for unit, receipt in zip(self._context.plan.units, packed, strict=True)
        ]
        path = self._run.path(view_folder(self._length), "units.parquet")
        file: File = stages.commit_table(
            self._run, path, [pa.Table.from_pylist(rows, schema=PACKED_UNITS)], PACKED_UNITS
        )
        return UnitsFile(path=file.path, sha256=file.sha256)

    def _conservation(self, counts: dict[str, int]) -> Conservation:
        dropped: dict[str, int] = {}
        rejected: dict[str, int] = {}
        into = 0
        for name in self._tokens:
            documents = stages.need_manifest(self._run, "documents", name).counts
            drops = stages.need_manifest(self._run, "dedup", name).counts
            into += documents["documents_in"]
            for found in (documents, drops, self._tokens[name].counts):
                for key, count in found.items():
                    kind, _, reason = key.partition(".")
                    target = {"dropped": dropped, "rejected": rejected}.get(kind)
                    if target is not None:
                        target[reason] = target.get(reason, 0) + count
        encoded = sum(whole.counts["tokens"] for whole in self._tokens.values())
        in_records = sum(count for key, count in counts.items() if key.startswith("in_records."))
        return Conservation(
            documents=DocumentLaw(
                into=into,
                kept=sum(whole.counts["kept"] for whole in self._tokens.values()),
                dropped=dict(sorted(dropped.items())),
                rejected=dict(sorted(rejected.items())),
            ),
            tokens=TokenLaw(
                encoded=encoded,
                in_records=in_records,
                repeated=sum(count for key, count in counts.items() if key.startswith("repeated.")),
                padding=counts["padding"],
                unused=encoded - in_records,
            ),
        )


def _receipt(folder: str, run: stages.Run, number: int) -> str:
    return stages.receipt_path(run, folder, number)


def _cut(records: int, a_file: int) -> list[int]:
    """Records of each file when `records` are cut into files of at most `a_file`."""
    return [min(a_file, records - start) for start in range(0, records, a_file)]

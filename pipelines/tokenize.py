"""tokenize: kept documents become token ids, from begin to end, with FIM where configured.

The rules that count tokens run here; what they remove goes to `tokens/<component>/rejected-….parquet`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import stages
from pipelines.documents import checked_files, kept_documents
from pipelines.jobs import Each, Run, run_steps
from pipelines.keys import document_keys
from pipelines.plan import read_index
from pipelines.sources import Reject
from pipelines.sources.base import sample
from pipelines.stages import Context, Receipt
from pipelines.tokenizer import Tokenizer, encode_documents
from pipelines.tokenizer.job import load_tokenizer
from schemas import manifest
from schemas.arrow import tokens_schema
from schemas.config import Config, TokenizeConfig
from schemas.errors import TokenmillError
from schemas.manifest import StageManifest
from schemas.record import token_dtype

FORMAT = 2


def fingerprint(config: Config, component: str, drops: str, tokenizer: str) -> str:
    """Identifies a component's tokens."""
    return manifest.fingerprint(
        {
            "stage": "tokenize",
            "format": FORMAT,
            "component": component,
            "drops": drops,
            "tokenizer": tokenizer,
            "rules": config.tokenize.model_dump(),
            "fim_rate": config.components[component].fim_rate,
            "seed": config.seed,
            "versions": stages.versions("pyarrow", "sentencepiece"),
        }
    )


def broken_rule(rules: TokenizeConfig, ids: npt.NDArray[np.int32], characters: int) -> tuple[str, float, str] | None:
    """The first rule a document breaks: (name, value, bound). ids: with begin and end, which do not count."""
    count = len(ids) - 2
    unique = _unique_ids(ids[1:-1], rules.min_unique_tokens or 0)
    measured: list[tuple[str, float, float | None, bool]] = [
        ("min_tokens", count, rules.min_tokens, count < (rules.min_tokens or 0)),
        ("max_tokens", count, rules.max_tokens, rules.max_tokens is not None and count > rules.max_tokens),
        ("min_unique_tokens", unique, rules.min_unique_tokens, unique < (rules.min_unique_tokens or 0)),
        (
            "min_characters_per_token",
            characters / count,
            rules.min_characters_per_token,
            characters / count < (rules.min_characters_per_token or 0),
        ),
    ]
    for name, value, bound, broken in measured:
        if broken:
            return name, value, f"{'at most' if name == 'max_tokens' else 'at least'} {bound:g}"
    return None


def _unique_ids(ids: npt.NDArray[np.int32], enough: int) -> int:
    """The number of different ids, or `enough` as soon as the first ids show that there are no fewer."""
    first = len(np.unique(ids[: 8 * enough]))
    return enough if first >= enough else len(np.unique(ids))


@dataclass(frozen=True)
class TokenizeUnit:
    """The task: one unit to one tokens file and one rejected file."""

    config: Config
    folders: dict[str, str]

    def __call__(self, run: Run, task: int) -> None:
        """Tokenize one unit and leave its receipt."""
        index = read_index(run)
        unit = index.unit(task)
        tokenizer = load_tokenizer(run)
        schema = tokens_schema(token_dtype(tokenizer.vocab_size).name)
        rejects = stages.Rejects()
        counts: Counter[str] = Counter()
        facts: dict[str, Any] = {"least_key": None}
        tables = self._tables(run, task, tokenizer, rejects, counts, facts)
        tokens, rejected = (index.path(run, "tokens", kind, task) for kind in ("tokens", "rejected"))
        files = stages.commit_with_rejects(run, tokens, tables, schema, rejected, rejects)
        counts.update(rejects.counts)
        written = manifest.Unit(unit=unit.unit, counts=dict(sorted(counts.items())))
        receipt = Receipt(task=task, files=files, unit=written, facts=facts)
        stages.write_receipt(run, self.folders[unit.component], receipt)

    def _tables(
        self,
        run: Run,
        task: int,
        tokenizer: Tokenizer,
        rejects: stages.Rejects,
        counts: Counter[str],
        facts: dict[str, Any],
    ) -> Iterator[pa.Table]:
        rate = self.config.components[read_index(run).unit(task).component].fim_rate
        counts.update(kept=0, tokens=0)
        for table in kept_documents(run, task, ["id", "source", "text", "hash"]):
            yield self._table(table, tokenizer, rate, rejects, counts, facts)

    def _table(
        self,
        table: pa.Table,
        tokenizer: Tokenizer,
        rate: float,
        rejects: stages.Rejects,
        counts: Counter[str],
        facts: dict[str, Any],
    ) -> pa.Table:
        """One row group. Everything but the result is let go before it is written, which takes the most memory."""
        dtype = token_dtype(tokenizer.vocab_size)
        texts = table["text"].to_pylist()
        keys = document_keys(table["hash"], self.config.seed, "order")
        encoded = encode_documents(tokenizer, texts, keys, rate)
        chosen: list[int] = []
        for row, ids in enumerate(encoded):
            broken = broken_rule(self.config.tokenize, ids, len(texts[row]))
            if broken is None:
                chosen.append(row)
                continue
            name, value, bound = broken
            detail = f"{name}: {value:.6g}, {bound}; document {table['id'][row].as_py()}"
            rejects.add(Reject(table["source"][row].as_py(), 0, name, detail, sample(texts[row])))
        lengths = np.array([len(encoded[row]) for row in chosen], np.int64)
        flat = np.concatenate([np.empty(0, dtype), *(encoded[row] for row in chosen)], dtype=dtype, casting="unsafe")
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        counts["kept"] += len(chosen)
        counts["tokens"] += int(lengths.sum())
        kept_keys = keys[chosen]
        if chosen:
            least = int(kept_keys.min())
            facts["least_key"] = least if facts["least_key"] is None else min(least, facts["least_key"])
        return pa.table(
            {
                "id": table["id"].take(pa.array(chosen, pa.int64())),
                "tokens": pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
                "key": kept_keys,
                "count": lengths,
            },
            schema=tokens_schema(dtype.name),
        )


def run(context: Context) -> None:
    """Tokenize what is not yet tokenized and write each component's manifest.

    Raises:
        TokenmillError: a component has no document left.
    """
    config, plan = context.config, context.plan
    tokenizer = stages.check_files(context.run, "tokenizer")
    prints: dict[str, str] = {}
    for name in plan.by_component:
        checked_files(context.run, "documents", name)
        drops = checked_files(context.run, "dedup", name)
        prints[name] = fingerprint(config, name, drops.fingerprint, tokenizer.fingerprint)
    due = [name for name in prints if not stages.is_done(context.run, "tokens", name, prints[name])]
    folders = {name: stages.work_folder(f"tokenize-{name}", prints[name]) for name in due}
    todo = [task for name in due for task in stages.unfinished(context.run, folders[name], plan.by_component[name])]
    context.say(
        "stage",
        name="tokenize",
        tasks=sum(len(plan.by_component[name]) for name in due),
        folders=list(folders.values()),
    )
    if todo:
        run_steps(context.run, [Each("tokenize", todo, TokenizeUnit(config, folders))], context.options, context.small)
    for name in due:
        receipts = stages.read_receipts(context.run, folders[name], plan.by_component[name])
        counts = stages.total(receipt.unit.counts for receipt in receipts)
        if not counts["kept"]:
            raise TokenmillError(
                f"components.{name}: no document is left after the token rules; "
                f"look at tokens/{name}/rejected-*.parquet"
            )
        keys = [receipt.facts["least_key"] for receipt in receipts if receipt.facts["least_key"] is not None]
        whole = StageManifest(
            stage="tokenize",
            component=name,
            fingerprint=prints[name],
            inputs={"tokenizer": tokenizer.fingerprint},
            versions=stages.versions("pyarrow", "sentencepiece"),
            counts=counts,
            files=tuple(sorted((file for receipt in receipts for file in receipt.files), key=lambda file: file.path)),
            units=tuple(receipt.unit for receipt in receipts),
            details={"least_key": min(keys)},
        )
        stages.write_manifest(context.run, whole, "tokens", name)

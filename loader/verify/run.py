"""A whole run: every stage's folder, the documents' way through them, then each view against them."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from loader.locate import COMPONENT_FOLDERS, MANIFEST, RunManifests, read_run
from loader.progress import Progress
from loader.verify.documents import DocumentChain, compare_counts, unit_counts
from loader.verify.files import Files
from loader.verify.findings import Findings
from loader.verify.ids import Units
from loader.verify.tables import Unreadable, whole_table
from loader.verify.view import ViewCheck, view_files
from schemas.arrow import UNITS
from schemas.config import Config, load_config
from schemas.errors import TokenmillError
from schemas.manifest import StageManifest, TokenizerInfo

_KINDS = {"documents": ("documents", "rejected"), "dedup": ("drops",), "tokens": ("rejected", "tokens")}


def check_run(findings: Findings, progress: Progress) -> None:
    """Check the run in `findings.root`.

    Raises:
        TokenmillError: a manifest is broken.
    """
    run = read_run(findings.root)
    _RunCheck(findings, run).check(progress)


class _RunCheck:
    def __init__(self, findings: Findings, run: RunManifests) -> None:
        self._findings, self._run, self._folder = findings, run, findings.root
        self._config = self._read_config()
        found = [name for stage in run.stages.values() for name in stage]
        self._names = tuple(self._config.components) if self._config else tuple(dict.fromkeys(found))
        self._files: dict[tuple[str, str], Files] = {}

    def check(self, progress: Progress) -> None:
        findings, run = self._findings, self._run
        self._check_presence()
        self._check_config()
        for folder, stage in run.stages.items():
            for name, whole in stage.items():
                self._files[folder, name] = Files(findings, self._folder / folder / name, whole.files)
        if run.tokenizer is not None:
            self._files["tokenizer", ""] = Files(findings, self._folder / "tokenizer", run.tokenizer.files)
        for name, view in run.views.items():
            self._files["shards", name] = Files(findings, self._folder / "shards" / name, view_files(view))
        with progress.step("files", sum(files.count for files in self._files.values())):
            for files in self._files.values():
                files.check(progress)
        tokenizer = self._tokenizer()
        units = self._units()
        if units is None or tokenizer is None:
            findings.notes.append(
                "the views were checked alone: the documents, drops, tokens or tokenizer of a run are not all here"
            )
            self._check_views(progress, None, None)
            return
        self._check_links(tokenizer)
        self._check_plan(units)
        threshold = self._config.dedup.threshold if self._config else 0.0
        chain = DocumentChain(findings, run, self._files, units, tokenizer, threshold)
        with progress.step("documents", units.total):
            chain.check(progress)
        self._check_views(progress, chain, units)

    def _read_config(self) -> Config | None:
        path = self._folder / "config.yaml"
        if not path.exists():
            return None
        try:
            return load_config(path)
        except TokenmillError as error:
            self._findings.problem(path, str(error).split("\n")[0].removeprefix(f"{path}: "))
            return None

    def _check_presence(self) -> None:
        """A directory with anything but views in it is a whole run: no stage of it may be missing, none too many."""
        folders = [*COMPONENT_FOLDERS, "tokenizer", "config.yaml", "plan"]
        if not any((self._folder / name).exists() for name in folders):
            return
        missing = [
            f"{folder}/{name}"
            for folder in COMPONENT_FOLDERS
            for name in self._names
            if name not in self._run.stages[folder]
        ]
        missing += [] if self._run.tokenizer else ["tokenizer"]
        lengths = [str(length) for length in self._config.shard.sequence_lengths] if self._config else []
        present = {path.name for path in (self._folder / "shards").glob("*") if path.is_dir()}
        missing += [f"shards/{length}" for length in sorted({*lengths, *present} - self._run.views.keys())]
        for name in missing:
            self._findings.problem(
                self._folder / name / MANIFEST, "is missing: this part of the run is not finished, or was removed"
            )
        if not (self._folder / "config.yaml").exists():
            self._findings.problem(self._folder / "config.yaml", "is missing")
        for folder, stage in self._run.stages.items():
            for name in sorted(stage.keys() - set(self._names)):
                self._findings.problem(self._folder / folder / name, "is no component of config.yaml")

    def _units(self) -> Units | None:
        """The units of the run, when every stage of every component is there and has the same."""
        counts = []
        whole = bool(self._names)
        for name in self._names:
            stages = {folder: self._run.stages[folder].get(name) for folder in COMPONENT_FOLDERS}
            documents = stages["documents"]
            if documents is None:
                return None
            count = len(documents.units)
            counts.append(count)
            for folder, stage in stages.items():
                if stage is None:
                    return None
                whole &= self._check_stage(folder, name, stage, count)
        return Units(self._names, tuple(counts)) if whole else None

    def _check_stage(self, folder: str, name: str, stage: StageManifest, units: int) -> bool:
        """A stage's manifest against where it lies, against itself, and against the documents' units."""
        findings, path = self._findings, self._folder / folder / name / MANIFEST
        findings.expect(path, "stage", stage.stage, COMPONENT_FOLDERS[folder])
        findings.expect(path, "component", stage.component, name)
        compare_counts(findings, path, "all units", stage.counts, unit_counts(stage))
        if [unit.unit for unit in stage.units] != list(range(units)):
            findings.problem(path, f"its units are not the {units} of the documents, counted from 0")
            return False
        names = sorted(f"{kind}-{unit:05d}-of-{units:05d}.parquet" for kind in _KINDS[folder] for unit in range(units))
        if sorted(file.path for file in stage.files) != names:
            findings.problem(path, f"its files are not {' and '.join(_KINDS[folder])} of each of its {units} units")
            return False
        return True

    def _tokenizer(self) -> TokenizerInfo | None:
        if self._run.tokenizer is None:
            return None
        try:
            return TokenizerInfo.model_validate(self._run.tokenizer.details)
        except ValidationError:
            self._findings.problem(self._folder / "tokenizer" / MANIFEST, "its details do not describe a tokenizer")
            return None

    def _check_links(self, tokenizer: TokenizerInfo) -> None:
        """Each stage names the fingerprints of what it was made from."""
        run, expect = self._run, self._findings.expect
        assert run.tokenizer is not None
        documents = {name: whole.fingerprint for name, whole in run.stages["documents"].items()}
        for name in self._names:
            expect(
                self._folder / "dedup" / name / MANIFEST,
                "fingerprints of its inputs",
                run.stages["dedup"][name].inputs,
                documents,
            )
            stated = run.stages["tokens"][name].inputs.get("tokenizer")
            expect(
                self._folder / "tokens" / name / MANIFEST,
                "fingerprint of its tokenizer",
                stated,
                run.tokenizer.fingerprint,
            )
        expect(
            self._folder / "tokenizer" / MANIFEST,
            "fingerprint in its details",
            tokenizer.fingerprint,
            run.tokenizer.fingerprint,
        )
        for name, view in run.views.items():
            if view.tokenizer != tokenizer:
                self._findings.problem(
                    self._folder / "shards" / name / MANIFEST, "its tokenizer is not the one in tokenizer/"
                )

    def _check_config(self) -> None:
        """The views have the config's seed, packing and weights."""
        config = self._config
        if config is None:
            return
        for name, view in self._run.views.items():
            path = self._folder / "shards" / name / MANIFEST
            self._findings.expect(path, "seed", view.order.seed, config.seed)
            self._findings.expect(path, "packing", view.packing, config.shard.packing)
            for part in view.order.components:
                if part.name in config.components:
                    weight = float(config.components[part.name].weight)
                    self._findings.expect(path, f"requested share of {part.name}", part.requested, weight)

    def _check_plan(self, units: Units) -> None:
        """The plan lists the units that were worked through."""
        path = self._folder / "plan" / "units.parquet"
        if not path.exists():
            self._findings.problem(path, "is missing")
            return
        try:
            table = whole_table(path, UNITS, ["component", "unit"])
        except Unreadable as error:
            self._findings.problem(path, str(error))
            return
        planned = list(zip(table["component"].to_pylist(), table["unit"].to_pylist(), strict=True))
        worked = [(name, unit) for name, count in zip(units.names, units.counts, strict=True) for unit in range(count)]
        if planned != worked:
            self._findings.problem(path, "its units are not those of the documents")

    def _check_views(self, progress: Progress, chain: DocumentChain | None, units: Units | None) -> None:
        token_files = [self._token_file(units, number) for number in range(units.total)] if units else []
        for name, view in self._run.views.items():
            files = self._files["shards", name]
            if name != str(view.sequence_length):
                self._findings.problem(files.folder / MANIFEST, f"is of sequence length {view.sequence_length}")
            recount = chain.recount if chain else None
            ViewCheck(self._findings, view, files, recount, units, token_files).check(progress)

    def _token_file(self, units: Units, number: int) -> Path | None:
        """A unit's tokens, None when the file is not as stated."""
        component, unit = units.name(number).split("/")
        count = units.counts[units.names.index(component)]
        name = f"tokens-{int(unit):05d}-of-{count:05d}.parquet"
        files = self._files["tokens", component]
        return files.folder / name if name in files.good else None

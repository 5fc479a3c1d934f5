"""`verify`: hash every file, read every record again, count documents and tokens anew (docs/verify.md)."""

from __future__ import annotations

from loader.locate import MANIFEST, Place
from loader.progress import Progress
from loader.verify.documents import compare_counts, unit_counts
from loader.verify.files import Files
from loader.verify.findings import Findings
from loader.verify.run import check_run
from loader.verify.view import ViewCheck, view_files
from schemas import manifest
from schemas.manifest import ShardManifest, StageManifest

__all__ = ["Findings", "verify"]


def verify(place: Place, progress: Progress) -> Findings:
    """Check a run, a view alone, or one stage's files; what is wrong is in the findings.

    Raises:
        TokenmillError: a manifest is broken, so that there is nothing to check against.
    """
    findings = Findings(place.folder)
    path = place.folder / MANIFEST
    if place.kind == "run":
        check_run(findings, progress)
    elif place.kind == "view":
        view = manifest.load(ShardManifest, path)
        files = Files(findings, place.folder, view_files(view))
        _hash(files, progress)
        findings.notes.append(
            "a view alone: its records were not compared with the documents' tokens; verify the run for that"
        )
        ViewCheck(findings, view, files).check(progress)
    else:
        stage = manifest.load(StageManifest, path)
        if stage.units:
            compare_counts(findings, path, "all units", stage.counts, unit_counts(stage))
        _hash(Files(findings, place.folder, stage.files), progress)
        findings.notes.append("files and rows of one stage alone; verify the run to check what they hold")
    return findings


def _hash(files: Files, progress: Progress) -> None:
    with progress.step("files", files.count):
        files.check(progress)

"""Earlier runs whose kept documents count as kept already (`dedup.against`): what a plan records of them.

A record holds no path: an earlier run is told by its name and by the fingerprints of its documents and drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from pipelines.text_table import UNICODE_VERSION
from schemas import manifest, storage
from schemas.config import Config, parse_yaml
from schemas.errors import Refused
from schemas.manifest import StageManifest

FOLDERS = ("documents", "dedup")  # the stages of an earlier run that are read


@dataclass(frozen=True)
class Earlier:
    """An earlier run. units: of all its components; documents: what its ingest kept.

    fingerprints: of its stages, by `documents/<component>` and `dedup/<component>`.
    """

    name: str
    units: int
    documents: int
    fingerprints: dict[str, str]

    @property
    def manifests(self) -> list[tuple[str, str]]:
        """(folder, component) of each manifest that is read."""
        return [(folder, component) for folder, component in (key.split("/") for key in self.fingerprints)]


def find_earlier(config: Config) -> tuple[Earlier, ...]:
    """The runs `dedup.against` names, in its order.

    Raises:
        Refused: one is no run, is not deduplicated, or signed its documents in another way than this run will.
    """
    return tuple(_read(name, directory, config) for name, directory in config.dedup.earlier().items())


def _read(name: str, directory: str, config: Config) -> Earlier:
    try:
        path = storage.join(directory, "config.yaml")
        old = parse_yaml(storage.read_bytes(path), path)
        present = storage.size_of(storage.join(directory, "plan/units.parquet")) is not None
        found = {
            f"{folder}/{part}": _manifest(directory, folder, part) for folder in FOLDERS for part in old.components
        }
    except (FileNotFoundError, NotADirectoryError):
        present = False
    if not present:
        raise Refused(f"dedup.against: {directory}: holds no run that is finished up to dedup; finish or leave it out")
    for key in ("permutations", "shingle"):
        a, b = getattr(old.dedup, key), getattr(config.dedup, key)
        if a != b:
            raise Refused(
                f"dedup.against: {directory}: was made with dedup.{key} = {a}, this config has {b}; signatures of "
                f"different kinds cannot be compared, so set dedup.{key} to {a} or leave that run out"
            )
    documents = [found[f"documents/{part}"] for part in old.components]
    for key, own in (("datasketch", version("datasketch")), ("unicode", UNICODE_VERSION)):
        for whole in documents:
            if whole.versions.get(key) != own:
                raise Refused(
                    f"dedup.against: {directory}: its documents were signed under {key} {whole.versions.get(key)}, "
                    f"this installation has {own}; use the same version, or ingest that run again with this one"
                )
    return Earlier(
        name,
        sum(len(whole.units) for whole in documents),
        sum(whole.counts["kept"] for whole in documents),
        {key: whole.fingerprint for key, whole in found.items()},
    )


def _manifest(directory: str, folder: str, component: str) -> StageManifest:
    path = storage.join(directory, folder, component, "manifest.json")
    return manifest.parse(StageManifest, storage.read_bytes(path), path)

"""Local copies of a remote checkpoint's files: each is fetched once, when some of it is first read, and checked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from schemas.errors import TokenmillError
from schemas.storage import cannot_write
from trainer.checkpoint import files, records
from trainer.checkpoint.records import FileSum, Manifest

_THREADS = 8


class Copies:
    """Of the checkpoint at `path`; in a temporary folder (TMPDIR) that goes when this object does."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder = tempfile.TemporaryDirectory(prefix="tokenmill-checkpoint-")

    def of(self, manifest: Manifest, names: Sequence[str]) -> str:
        """The local folder that stands for that of a process, with these of its files in it.

        Raises:
            TokenmillError: a file has changed since it was verified or cannot be fetched, or the disk is full.
        """
        process = records.process_name(manifest.process, manifest.processes)
        here = os.path.join(self._folder.name, process)
        missing = [name for name in names if not os.path.exists(os.path.join(here, name))]
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name: self._fetch(f"{process}/{name}", manifest.files[name]), missing))
        return here

    def _fetch(self, name: str, expected: FileSum) -> None:
        origin, target = f"{self._path}/{name}", os.path.join(self._folder.name, name)
        try:
            data = files.read_small(origin, expected.bytes)
        except (files.NotPlain, FileNotFoundError) as error:
            raise TokenmillError(f"{origin}: changed since it was verified: {error}") from None
        if hashlib.sha256(data).hexdigest() != expected.sha256:
            raise TokenmillError(f"{origin}: changed since it was verified: its sha256 is not that of its manifest")
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(f"{target}.part", "wb") as file:
                file.write(data)
            os.rename(f"{target}.part", target)
        except OSError as error:
            raise cannot_write(target, error) from None

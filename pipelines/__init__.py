"""The Beam jobs: raw corpora in, exactly mixed shards out."""

from typing import Any

from schemas import storage


def _beam_files() -> Any:
    """Files on any filesystem Beam knows. Loads Beam, which takes a second."""
    from pipelines import beam_files  # noqa: PLC0415

    return beam_files


storage.added = _beam_files

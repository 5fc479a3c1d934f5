"""Reading prepared shards: `Shards`, inspection and verification. Importing this imports no TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loader.shards import Shards

__all__ = ["Shards"]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: the commands that read manifests alone stay fast.
    if name == "Shards":
        from loader.shards import Shards  # noqa: PLC0415

        return Shards
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

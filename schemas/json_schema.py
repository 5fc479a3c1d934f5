"""`python -m schemas.json_schema`: write the JSON Schemas of the config and the manifests to `schemas/json/`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from schemas.config import Config
from schemas.manifest import ShardManifest, StageManifest

FOLDER = Path(__file__).parent / "json"
MODELS: tuple[type[BaseModel], ...] = (Config, StageManifest, ShardManifest)


def json_schemas() -> dict[str, str]:
    """The text of each schema file, by file name."""
    return {
        f"{model.__name__}.schema.json": json.dumps(model.model_json_schema(by_alias=True), indent=1) + "\n"
        for model in MODELS
    }


def main() -> None:
    """Write the files."""
    for name, text in json_schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

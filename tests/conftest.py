"""What several test modules need: a small corpus made from what every Python has, and a real run over it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

import trainer  # noqa: F401  (TensorFlow reads what it sets, whichever test is the first to load it)

# A busy machine is no failure: examples have no time limit of their own. CI tries the same examples each time, so that
# what it says is about the change; everybody else's runs go on looking.
settings.register_profile("tokenmill", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tokenmill")

ROOT = Path(__file__).resolve().parent.parent


def write_corpus(folder: Path) -> None:
    """Library sources as code, language topics as prose; copies, near-duplicates and unreadable inputs among them."""
    from pydoc_data.topics import topics  # noqa: PLC0415

    code = folder / "code"
    code.mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))
    sources = [path for path in sorted(library.glob("*.py")) if 1_000 < path.stat().st_size < 40_000][:110]
    for path in sources:
        (code / path.name).write_bytes(path.read_bytes())
    for path in sources[:4]:
        (code / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    for path in sources[20:24]:
        (code / f"near_{path.name}").write_bytes(path.read_bytes() + b"\n\nVERSION = 3\n")
    (code / "latin1.py").write_bytes("# caf\xe9\n".encode("latin-1") * 20)
    (code / "nothing.py").write_bytes(b"\n\n")
    lines = [json.dumps({"text": text, "name": name}) for name, text in sorted(topics.items())]
    near = json.loads(lines[1])["text"] + " And so on."
    lines[3:3] = ["{broken", lines[0], json.dumps({"text": near, "name": "near"})]
    (folder / "prose.jsonl").write_text("\n".join(lines) + "\n")


def small_config(corpus: Path) -> dict[str, object]:
    """The config of the small run: two views, several units a component, prose repeated, some documents too long."""
    return {
        "seed": 5,
        "components": {
            "code": {
                "weight": 0.7,
                "fim_rate": 0.3,
                "sources": [{"path": str(corpus / "code"), "format": "files", "include": ["**/*.py"]}],
            },
            "natural_language": {
                "weight": 0.3,
                "max_repeats": 3,
                "sources": [{"path": str(corpus / "prose.jsonl"), "format": "jsonl", "text": "text"}],
            },
        },
        "ingest": {"unit_bytes": 250_000},
        "tokenizer": {"vocab_size": 800, "sample_characters": 400_000},
        "tokenize": {"max_tokens": 15_000},
        "shard": {"sequence_lengths": [64, 256], "lanes": 8, "shard_bytes": 100_000},
        "validation": {"fraction": 0.05},
    }


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory. Shared by all tests: copy it before changing anything."""
    folder = tmp_path_factory.mktemp("small_run")
    write_corpus(folder / "corpus")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(small_config(folder / "corpus")))
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "run",
        str(config),
        "--output",
        str(folder / "run"),
        "--direct_num_workers=1",
    ]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "run"

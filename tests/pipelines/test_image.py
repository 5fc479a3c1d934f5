"""The image's recipe, as far as it goes without Docker: what it copies, installed by its command, does a run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.tiny import contents

RECIPE = (ROOT / "Dockerfile").read_text()
COPIED = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", RECIPE, re.MULTILINE) for word in line.split()]
PLAIN = {".py", ".json", ".yaml", ".toml", ".txt", ".md", ".typed"}
"""Suffixes of what the project's folders hold; a key file or an archive has another."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the recipe copies, and a new environment `venv` in which its command has installed it."""
    folder = tmp_path_factory.mktemp("image")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    (command,) = re.findall(r"^RUN (.+)$", RECIPE, re.MULTILINE)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    words = command.replace(" --no-cache-dir", "")  # what the suite's own environment downloaded is not fetched again
    made = subprocess.run(
        ["sh", "-c", f". venv/bin/activate && {words}"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.mark.slow
def test_what_it_installs_does_a_run(image: Path, tiny_run: Path, tmp_path: Path) -> None:
    python = str(image / "venv/bin/python")
    config, output = str(tiny_run / "tiny/config.yaml"), tmp_path / "run"
    subprocess.run([python, "-m", "pipelines", "run", config, "--output", str(output)], cwd=tmp_path, check=True)
    assert contents(output) == contents(tiny_run / "run")
    subprocess.run([python, str(image / "flex_template.py"), "--help"], check=True, capture_output=True)


@pytest.mark.slow
def test_it_installs_no_tensorflow_and_nothing_that_is_not_pinned(image: Path) -> None:
    listed = subprocess.run(
        [image / "venv/bin/python", "-m", "pip", "list", "--format=json"], check=True, capture_output=True
    )
    installed = {one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(listed.stdout)}
    assert "apache-beam" in installed and not [name for name in installed if "tensorflow" in name or name == "torch"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    unpinned = installed.keys() - pins - {"tokenmill", "pip", "setuptools", "wheel"}
    assert not unpinned


def test_it_copies_text_of_the_project_alone() -> None:
    """Credentials would have to lie in a folder that is copied, or be said in the recipe."""
    for name in COPIED:
        root = ROOT / name
        files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
        assert not [path for path in files if "__pycache__" not in path.parts and path.suffix not in PLAIN]
    assert not re.search(r"(?i)secret|passw|token=|credential|api_?key", RECIPE)


def test_the_images_recipe_fits_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (beam,) = [pin.split("==")[1] for pin in extras["pipelines"] if pin.startswith("apache-beam==")]
    assert f"ARG BEAM={beam}\n" in RECIPE and f"apache-beam[gcp]=={beam}" in extras["gcp"]
    assert {"schemas", "pipelines"} <= set(COPIED) and not {"loader", "trainer", "tests"} & set(COPIED)
    assert all((ROOT / name).exists() and f"!{name}\n" in (ROOT / ".dockerignore").read_text() for name in COPIED)
    assert (ROOT / RECIPE.split("PY_FILE=/opt/tokenmill/")[1].split()[0]).is_file()

"""Imports point one way, and reading needs neither TensorFlow nor Beam."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What a package must not import, wherever in a file the import stands.
FORBIDDEN = {
    "schemas": {"pipelines", "loader", "trainer", "apache_beam", "tensorflow", "benchmarks", "tests"},
    "pipelines": {"loader", "trainer", "tensorflow", "benchmarks", "tests"},
    "loader": {"pipelines", "trainer", "apache_beam", "benchmarks", "tests"},
    "trainer": {"pipelines", "apache_beam", "benchmarks", "tests"},
}


def imported(source: str) -> set[str]:
    """Top-level names of all modules a file imports; relative imports stay inside and do not count."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found.update(str(arg.value).partition(".")[0] for arg in node.args if isinstance(arg, ast.Constant))
    return found


def test_the_walk_sees_every_kind_of_import():
    source = (
        "import a.b as c, d\nfrom e.f import g\ndef h():\n  import i\n  importlib.import_module('j.k')\nfrom . import l"
    )
    assert imported(source) == {"a", "d", "e", "i", "j"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): imported(path.read_text()) & FORBIDDEN[package] for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_importing_the_loader_brings_no_tensorflow():
    """TensorFlow may be imported in loader's functions only: what runs at import is checked with it blocked, below."""
    for path in sorted((ROOT / "loader").rglob("*.py")):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = set().union(*(imported(ast.unparse(node)) for node in top)) if top else set()
        if "tensorflow" in names:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert run_blocked(f"import loader, sys; assert {module!r} not in sys.modules").returncode == 0, path


def run_blocked(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python in which TensorFlow and Beam cannot be imported."""
    block = "import sys; sys.modules['tensorflow'] = sys.modules['apache_beam'] = None; "
    return subprocess.run(
        [sys.executable, "-c", block + code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


COMMAND = "import runpy; sys.argv[0] = 'loader'; runpy.run_module('loader', run_name='__main__')"


def test_the_block_works():
    assert "ModuleNotFoundError" in run_blocked("import tensorflow").stderr
    assert "ModuleNotFoundError" in run_blocked("import apache_beam").stderr


def test_loader_and_schemas_are_imported_without_tensorflow_and_beam():
    modules = ["loader", *sorted(f"schemas.{path.stem}" for path in (ROOT / "schemas").glob("[a-z]*.py"))]
    made = run_blocked("; ".join(f"import {module}" for module in modules))
    assert made.returncode == 0, made.stderr


def test_inspection_runs_without_tensorflow_and_beam(small_run: Path):
    for arguments in (["inspect", "--help"], ["inspect", str(small_run)], ["inspect", str(small_run), "--json"]):
        made = run_blocked(COMMAND, *arguments)
        assert made.returncode == 0, made.stderr
        assert made.stdout

"""A run to damage."""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loader.view import View
from loader.vocabulary import Vocabulary, vocabulary_of
from pipelines.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def collected_here() -> Iterator[None]:
    """Collect garbage between tests, in the main thread, and not during them.

    An iterator that a failure has left in a cycle of references still reads ahead. If the collector happens to run in a
    thread of that iterator, within a function of ours, TensorFlow waits there for that very thread, for ever.
    """
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run with its view of 64 tokens alone: half the work."""
    copy = Path(shutil.copytree(small_run, tmp_path / "run", ignore=shutil.ignore_patterns("256")))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["shard"]["sequence_lengths"] = [64]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    return copy


@pytest.fixture
def stages(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run without its views, for what is wrong before them."""
    return Path(shutil.copytree(small_run, tmp_path / "run", ignore=shutil.ignore_patterns("shards")))


@pytest.fixture
def view(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run's view of 64 tokens, alone."""
    return Path(shutil.copytree(small_run / "shards/64", tmp_path / "view"))


@pytest.fixture(scope="module")
def vocabulary(opened: View) -> Vocabulary:
    """The vocabulary of the view a module calls `opened`."""
    found = vocabulary_of(opened, None)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tokenizer(small_run: Path) -> Tokenizer:
    """The small run's tokenizer."""
    return Tokenizer.load(small_run / "tokenizer/tokenizer.model")

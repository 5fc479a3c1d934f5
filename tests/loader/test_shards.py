"""`Shards` itself: what it reads of a view, its state, what it refuses, and that it needs no TensorFlow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loader import Shards
from schemas.errors import Refused, TokenmillError
from tests.loader.forge import edit_json
from tests.loader.views import write_view
from tests.schemas.test_imports import run_blocked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "view"
    write_view(folder)
    return folder


def test_a_view_says_what_it_holds(small_run: Path) -> None:
    shards = Shards(small_run / "shards" / "64")
    stated = json.loads((small_run / "shards/64/manifest.json").read_text())
    assert shards.fingerprint == stated["fingerprint"]
    assert shards.sequence_length == 64
    assert shards.components == ("code", "natural_language")
    assert shards.records == stated["splits"]["train"]["records"]
    assert shards.validation == {name: split["records"] for name, split in stated["splits"]["validation"].items()}
    assert shards.tokenizer.model_dump() == stated["tokenizer"]
    assert [file.path for file in shards.files][: shards.order.lanes * shards.order.groups] == [
        file["path"] for file in stated["splits"]["train"]["files"]
    ]
    assert Shards(small_run / "shards/64/manifest.json").fingerprint == shards.fingerprint


def test_shards_need_no_tensorflow(folder: Path) -> None:
    made = run_blocked(
        "from loader import Shards; s = Shards(sys.argv[1]); print(s.resume(s.state(40)))\n"
        "try: s.dataset(8)\nexcept ModuleNotFoundError as error: print(error.name)",
        str(folder),
    )
    assert made.stdout.split() == ["40", "tensorflow"], made.stderr


def test_a_run_with_several_views_is_refused_by_their_names(small_run: Path) -> None:
    with pytest.raises(Refused, match=r"shards/256.*shards/64"):
        Shards(small_run)


@pytest.mark.parametrize(("path", "said"), [("nowhere", "no such file"), (".", "no run directory")])
def test_what_is_no_view_is_refused(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        Shards(tmp_path / path)


def test_a_stage_is_no_view(small_run: Path) -> None:
    with pytest.raises(TokenmillError, match="not a ShardManifest"):
        Shards(small_run / "tokens" / "code")


def test_the_state_is_json_and_gives_the_position_back(folder: Path) -> None:
    shards = Shards(folder)
    state = json.loads(json.dumps(shards.state(123)))
    assert state.keys() == {"format_version", "fingerprint", "order_version", "seed", "n"}
    assert Shards(folder).resume(state) == 123


@pytest.mark.parametrize(
    ("key", "value"), [("format_version", 2), ("fingerprint", "abc"), ("order_version", 2), ("seed", 8)]
)
def test_a_state_of_something_else_is_refused_with_both_values(folder: Path, key: str, value: object) -> None:
    shards = Shards(folder)
    state = shards.state(8)
    with pytest.raises(Refused) as refused:
        shards.resume(state | {key: value})
    assert key in str(refused.value)
    assert str(value) in str(refused.value)
    assert str(state[key]) in str(refused.value)


@pytest.mark.parametrize("state", [{}, {"n": 3}, {"n": -1}, {"n": "3"}, {"n": 1.5}, {"more": 1}])
def test_what_is_no_state_is_refused(folder: Path, state: dict[str, object]) -> None:
    shards = Shards(folder)
    whole = shards.state(0) | state if state and set(state) != {"n", "x"} else state
    if state == {"n": 3}:
        whole = state
    with pytest.raises(Refused):
        shards.resume(whole)


def shift(*keys: str | int, by: Any = 1) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] += by

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shift("splits", "train", "groups"), "names 24 train shards, not the 32"),
        (shift("splits", "train", "rows"), "records"),
        (shift("splits", "train", "files", 0, "bytes"), "train-00000-of-00024.tfrecord"),
        (shift("splits", "train", "files", 3, "path", by="x"), "train-00003-of-00024.tfrecord"),
        (shift("order", "permutation", by="x"), "not known here"),
        (shift("format_version"), "format version 1"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "view"))
    edit_json(copy / "manifest.json", change)
    with pytest.raises(TokenmillError, match=said) as refused:
        Shards(copy)
    assert "manifest.json" in str(refused.value)

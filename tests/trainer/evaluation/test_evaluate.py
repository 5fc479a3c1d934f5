"""`python -m trainer evaluate` on a run's output and on an exported model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import TypeAdapter

from tests.trainer.training.configs import content
from trainer.cli import main
from trainer.evaluation.results import Evaluation
from trainer.training.config import RunConfig
from trainer.training.loop import run


@pytest.fixture(scope="module")
def output(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of two steps."""
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    changes = {"stop": {"steps": 2}, "checkpoints": {"every": 1}}
    run(RunConfig.model_validate(content(small_run / "shards/64", folder, **changes)))
    return folder


SMALL = ("--records", "4", "--depths", "3", "--samples", "2")


def read(folder: Path) -> Evaluation:
    return TypeAdapter(Evaluation).validate_json((folder / "evaluation.json").read_bytes())


def test_a_runs_output(output: Path, small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(output), *SMALL]) == 0
    found = read(output)
    (view,) = found.views
    assert view.data == str(small_run / "shards/64")
    assert view.components.keys() == {"code", "natural_language"}
    assert f"loss {view.loss:.4f}" in capsys.readouterr().out
    assert len(view.retrieval.found) == 3
    # The weights after the first step are others.
    elsewhere = output.parent / "elsewhere"
    assert (
        main(["evaluate", str(output), "--checkpoint", "1", "--output", str(elsewhere), *SMALL, "--samples", "0"]) == 0
    )
    first = read(elsewhere)
    assert str(first.views[0].retrieval.reason) in (elsewhere / "evaluation.html").read_text()
    assert (first.step, first.views[0].components["code"].labels) == (1, view.components["code"].labels)
    assert first.views[0].loss != view.loss


def test_an_exported_model_on_several_views(
    output: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(output / "model", model)
    assert main(["evaluate", str(model)]) == 2
    assert "give --data VIEW" in capsys.readouterr().err
    views = [str(small_run / "shards" / length) for length in ("64", "256")]
    asked = ["evaluate", str(model), "--data", views[0], "--data", views[1], *SMALL]
    assert main(asked) == 0
    found = read(model)
    assert [view.sequence_length for view in found.views] == [64, 256]
    assert found.views[1].retrieval.found == [0.0, 0.0, 0.0]  # two steps teach nothing
    page = (model / "evaluation.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!#)|url\((?!#)", page)  # it needs no other file
    plots = [part[: part.index("</svg>") + 6] for part in page.split("<svg")[1:]]
    assert len(plots) == 2
    assert all(ElementTree.fromstring(f"<svg{plot}") is not None for plot in plots)
    # Again: the same numbers and plots, times aside.
    assert main(asked) == 0
    assert [*read(model).views] == [*found.views]
    assert page.split("<svg")[1:] == (model / "evaluation.html").read_text().split("<svg")[1:]


def test_another_tokenizer_is_refused(
    output: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(output / "model", model)
    info = json.loads((model / "tokenizer_info.json").read_text())
    (model / "tokenizer_info.json").write_text(json.dumps(info | {"fingerprint": "0" * 64}))
    # The same one, which another run was given, and states under another fingerprint.
    assert main(["evaluate", str(model), "--data", str(small_run / "shards/64"), *SMALL]) == 0
    with (model / "tokenizer.model").open("ab") as file:
        file.write(b"\xc0\x3e\x01")  # a field that no one knows: another model
    assert main(["evaluate", str(model), "--data", str(small_run / "shards/64")]) == 2
    assert "another tokenizer" in capsys.readouterr().err
    assert main(["evaluate", str(output), "--depths", "1"]) == 2
    assert "depths" in capsys.readouterr().err

"""One, two and four processes train alike: real processes, from one state, on one global batch."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.mesh.launch import finish, start
from tests.trainer.mesh.worker import CONFIG
from trainer.hf import load_pretrained, save_pretrained
from trainer.model import Model

SHAPES = [(2, 1), (1, 2), pytest.param((2, 2), marks=pytest.mark.slow)]


@dataclass
class Trained:
    """What the processes of a mesh wrote, in the order of ranks."""

    shape: tuple[int, int]
    ranks: list[dict[str, Any]]

    def whole(self, prefix: str) -> dict[str, np.ndarray]:
        """Tensors of the whole run by name, from the parts; each number from exactly one process."""
        found, times = {}, {}
        for rank in self.ranks:
            for key in rank:
                if not key.startswith(f"{prefix}/") or f"at/{key}" not in rank:
                    continue
                shape, at, part = rank[f"shape/{key}"], rank[f"at/{key}"], rank[key]
                box = tuple(slice(a, a + n) for a, n in zip(at, part.shape, strict=True))
                name = key.removeprefix(f"{prefix}/")
                found.setdefault(name, np.empty(shape, part.dtype))[box] = part
                times.setdefault(name, np.zeros(shape, int))[box] += 1
        assert all((count == 1).all() for count in times.values())
        return found


def trained(shape: tuple[int, int], folder: Path) -> Trained:
    """A mesh of this shape, run."""
    data, expert = shape
    finish(start("tests.trainer.mesh.worker", data * expert, str(data), str(expert), str(folder)))
    return Trained(shape, [dict(np.load(folder / f"{rank}.npz")) for rank in range(data * expert)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained((1, 1), tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def meshed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(request.param, tmp_path_factory.mktemp("meshed"))


@pytest.mark.parametrize("step", ["first", "skewed"])
def test_one_step_is_that_of_one_process(alone: Trained, meshed: Trained, step: str) -> None:
    one = alone.ranks[0]
    for rank in meshed.ranks:
        for name in ("total", "main", "mtp", "balance", "component_losses", "norm"):
            np.testing.assert_allclose(rank[f"{step}/{name}"], one[f"{step}/{name}"], rtol=1e-6, err_msg=name)
        for name in ("tokens", "component_tokens", "expert_counts", "applied"):
            np.testing.assert_array_equal(rank[f"{step}/{name}"], one[f"{step}/{name}"], name)
    expected, found = alone.whole(step), meshed.whole(step)
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        norm = np.linalg.norm(right.astype(np.float64))
        assert found[name].shape == right.shape
        # After the first step m is a tenth of the clipped gradient.
        allowed = 1e-4 * norm if name.startswith("m/") else 1e-3 * norm
        if not name.startswith(("m/", "v/")):
            # Adam's first step moves by the rate whatever the gradient's size: near zero, to either side.
            allowed = 1e-5 * norm + 1e-4
        assert np.linalg.norm(found[name].astype(np.float64) - right) <= allowed, name


def test_no_token_is_dropped_when_two_experts_take_all(alone: Trained, meshed: Trained) -> None:
    counts = meshed.ranks[0]["skewed/expert_counts"]
    assert (counts[:, :6] == 0).all()
    assert (counts[:, 6] == counts[:, 7]).all()
    assert (counts[:, 6] > 40).all()
    gradients = meshed.whole("skewed")
    for name in (name for name in gradients if name.startswith("m/") and ".mlp.experts." in name):
        assert not gradients[name][:6].any()
        assert gradients[name][6:].any(axis=(1, 2)).all()


def test_after_twenty_steps_losses_are_within_half_a_percent(alone: Trained, meshed: Trained) -> None:
    expected = alone.ranks[0]["loss/20"]
    assert len(expected) == 19
    for rank in meshed.ranks:
        np.testing.assert_allclose(rank["loss/20"], expected, rtol=5e-3)
    assert expected[-1] < 0.9 * expected[0]


def test_replicas_have_the_same_bits(meshed: Trained) -> None:
    _, expert = meshed.shape
    assert len({str(rank["digest/dense"]) for rank in meshed.ranks}) == 1
    for index in range(expert):
        assert len({str(rank["digest/experts"]) for rank in meshed.ranks[index::expert]}) == 1
    assert len({str(rank["digest/experts"]) for rank in meshed.ranks}) == expert


def test_the_gathered_model_is_whole_and_can_be_exported(meshed: Trained, tmp_path: Path) -> None:
    gathered = {k.removeprefix("gathered/"): v for k, v in meshed.ranks[0].items() if k.startswith("gathered/")}
    parts = meshed.whole("skewed")
    assert gathered
    assert gathered.keys() <= parts.keys()
    for name, value in gathered.items():
        assert value.tobytes() == parts[name].tobytes()
    save_pretrained(Model(CONFIG), tmp_path / "exported", values=gathered)
    back = load_pretrained(tmp_path / "exported")
    for variable in (*back.variables_in_order, *back.router_biases):
        np.testing.assert_array_equal(variable, gathered[variable.name.removesuffix(":0")])

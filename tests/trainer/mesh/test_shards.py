"""Who is who, who owns what, which sizes messages have; without other processes."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import Refused, TokenmillError
from tests.trainer.mesh.worker import CONFIG
from trainer.hf import save_pretrained
from trainer.mesh import Mesh, MeshConfig, Shards
from trainer.mesh.collectives import Alone, Group, run_time_size
from trainer.mesh.self_test import self_test
from trainer.mesh.shards import Rows
from trainer.model import Model
from trainer.model.dispatch import LocalExchange
from trainer.optimizer import OptimizerConfig
from trainer.step import TrainStep, optimizer_of

size_of = tf.function(run_time_size, input_signature=[tf.TensorSpec([], tf.int32)], autograph=False)


@given(st.integers(0, 2**30))
def test_run_time_sizes_are_few_and_close_above(needed: int) -> None:
    size, variant = (int(number) for number in size_of(needed))
    assert needed <= size <= max(needed, 1) + needed // 16
    assert 0 <= variant < 1024
    # The same number for the same size, but for powers of two, which are ends of two rows.
    assert int(size_of(size)[0]) == size
    assert (variant == int(size_of(size)[1])) or size & (size - 1) == 0


def test_different_run_time_sizes_have_different_variants() -> None:
    found: dict[int, set[int]] = {}
    for needed in [*range(300), *(2**k + d for k in range(9, 30) for d in (-1, 0, 1, 2**k // 3))]:
        size, variant = (int(number) for number in size_of(needed))
        found.setdefault(variant, set()).add(size)
    assert all(len(sizes) == 1 for sizes in found.values())


@given(st.integers(0, 500), st.integers(1, 60))
def test_replicas_own_each_row_once(size: int, replicas: int) -> None:
    rows = [Rows(size, replicas, index) for index in range(replicas)]
    assert [row for r in rows for row in range(r.start, r.stop)] == list(range(size))
    assert all(r.stop - r.start <= r.each for r in rows)
    assert replicas * rows[0].each < size + replicas


@pytest.mark.parametrize(("data", "expert"), [(2, 1), (1, 2), (2, 2), (3, 4), (1, 1)])
def test_every_process_is_once_in_each_kind_of_group(data: int, expert: int) -> None:
    meshes = [Mesh(MeshConfig(data=data, expert=expert), rank) for rank in range(data * expert)]
    assert [(m.data_index, m.expert_index) for m in meshes] == [(d, e) for d in range(data) for e in range(expert)]
    for m in meshes:
        assert [m.all.size, m.data.size, m.expert.size] == [data * expert, data, expert]
        assert [m.all.index, m.data.index, m.expert.index] == [m.rank, m.data_index, m.expert_index]
        assert list(m._members["expert"]) == [n.rank for n in meshes if n.data_index == m.data_index]
        assert list(m._members["data"]) == [n.rank for n in meshes if n.expert_index == m.expert_index]
    keys: dict[int, list[tuple[int, ...]]] = {}
    for m in meshes:
        for name, group in (("all", m.all), ("data", m.data), ("expert", m.expert)):
            if isinstance(group, Group):
                keys.setdefault(group._key, []).append(tuple(m._members[name]))
    for members in keys.values():
        assert len(set(members)) == 1
        assert len(members) == len(members[0])


def test_an_impossible_mesh_is_refused() -> None:
    with pytest.raises(Refused, match=r"mesh\.expert is 3, which does not divide the model's 8 routed experts"):
        Mesh(MeshConfig(expert=3)).exchange(CONFIG)
    with pytest.raises(Refused, match="2 processes, but the environment"):
        Mesh.join(MeshConfig(data=2), {})
    with pytest.raises(ValidationError):
        MeshConfig(data=0)


def test_one_process_has_no_cluster_and_no_copies() -> None:
    mesh = Mesh.join(MeshConfig(), {})
    assert isinstance(mesh.all, Alone)
    assert isinstance(mesh.exchange(CONFIG), LocalExchange)
    model = Model(CONFIG, exchange=mesh.exchange(CONFIG))
    shards = Shards(mesh, model)
    assert [v is p for v, p in zip(model.variables_in_order, shards.parameters.values(), strict=True)].count(False) == 0
    gradients = [tf.ones([2])] * len(model.variables_in_order)
    assert all(one is other for one, other in zip(shards.reduce(gradients), gradients, strict=True))
    owned = shards.owned(optimizer_of(model, OptimizerConfig(), shards))
    assert (
        len({o.name for o in owned}) == len(owned) == 3 * len(model.variables_in_order) + len(model.router_biases) + 1
    )
    for o in owned:
        assert o.written is not None
        assert o.variable[o.written].shape == o.shape
        assert set(o.offset) <= {0}


def test_shards_of_another_optimizer_are_an_error() -> None:
    model = Model(CONFIG)
    with pytest.raises(ValueError, match="other shards"):
        TrainStep(model, optimizer_of(Model(CONFIG), OptimizerConfig()), 1)


def test_a_spread_model_is_not_exported_in_part(tmp_path: Any) -> None:
    mesh = Mesh(MeshConfig(expert=2), 1)
    model = Model(CONFIG, exchange=mesh.exchange(CONFIG))
    stack = next(v for v in model.variables_in_order if v.name.removesuffix(":0") in model.expert_names)
    whole = next(v for v in Model(CONFIG).variables_in_order if v.name == stack.name)
    np.testing.assert_array_equal(stack, whole[4:])
    with pytest.raises(Refused, match=r"values=mesh\.gathered"):
        save_pretrained(model, tmp_path / "x")


class Broken(Alone):
    """Two processes, by its word; one collective gives wrong values."""

    size = 2

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong

    def __getattribute__(self, name: str) -> Any:
        if name not in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
            return super().__getattribute__(name)
        return lambda x, variant=None: x + 1 if name == self.wrong else tf.identity(x)


def test_the_self_test_names_the_collective() -> None:
    with pytest.raises(TokenmillError, match=r"^all_reduce over `data` in float32 gave .* is right"):
        self_test({"data": (Broken("all_reduce"), [0, 2])})


def test_what_tensorflow_would_take_wrongly_is_an_error_before() -> None:
    group = Mesh(MeshConfig(data=2), 0).all
    with pytest.raises(ValueError, match="nothing to move"):
        group.all_reduce(tf.zeros([0, 3]))
    graph = tf.function(group.all_to_all, input_signature=[tf.TensorSpec([2, None], tf.float32)], autograph=False)
    with pytest.raises(ValueError, match="give a variant"):
        graph.get_concrete_function()

"""The plan's arithmetic against real models, published totals, and what must hold of any plan."""

from __future__ import annotations

import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import itertools
import json
from typing import Any

import numpy as np
import pytest

from schemas.errors import Refused
from tests.conftest import ROOT
from trainer.model import Model
from trainer.plan.devices import DEVICES, device
from trainer.plan.estimate import (
    AVERAGE_BYTES,
    CHECKPOINT_SHARE,
    Mesh,
    Plan,
    activation_bytes,
    estimate,
    largest,
    parse_mesh,
)
from trainer.plan.parameters import flops_per_token, parameters
from trainer.presets import preset

V3 = preset("deepseek_v3_671b")


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "n_shared_experts": 2, "first_k_dense_replace": 0}])
@pytest.mark.parametrize("name", ["tiny", "small"])
def test_counts_are_those_of_the_model(name: str, changes: dict[str, Any]) -> None:
    config = preset(name).model_copy(update=changes)
    model, found = Model(config), parameters(config)
    sizes = {variable.name: int(np.prod(variable.shape)) for variable in model.variables_in_order}
    assert found.total == sum(sizes.values())
    mtp = f"model.layers.{config.num_hidden_layers}."
    assert found.mtp == sum(size for variable, size in sizes.items() if variable.startswith(mtp))
    assert found.experts == sum(size for variable, size in sizes.items() if ".mlp.experts." in variable)
    assert found.replicated == found.total - found.experts


def test_deepseek_v3_has_671_billion_parameters_and_37_active() -> None:
    found = parameters(V3)
    assert round(found.main / 1e9) == 671
    assert int(found.active / 1e9) == 37


def test_flops_of_a_model_without_attention_are_six_a_product() -> None:
    assert flops_per_token(preset("small"), 0) == 6 * parameters(preset("small")).products
    one, other = flops_per_token(V3, 4096), flops_per_token(V3, 8192)
    assert other - one == 6 * 62 * 128 * (192 + 128) * 4096


def plan(mesh: Mesh, **changes: Any) -> Plan:
    given = {"sequences": 15360, "microbatch": 1, "length": 4096, "precision": "bfloat16", "recompute": True}
    return estimate(V3, mesh, DEVICES["h100"], **(given | changes))  # type: ignore[arg-type]


def test_one_process_sends_nothing_and_holds_everything() -> None:
    alone, total = plan(Mesh(1, 1)), parameters(V3).total
    assert sum(alone.traffic.values()) == 0
    assert alone.bytes_by_kind["master weights, FP32"] == alone.bytes_by_kind["moments, BF16"] == 4 * total
    assert alone.checkpoint_bytes == pytest.approx(CHECKPOINT_SHARE * 12 * total)
    averaged = plan(Mesh(1, 1), average=True)
    assert averaged.checkpoint_bytes - alone.checkpoint_bytes == pytest.approx(AVERAGE_BYTES * total)


def test_a_larger_mesh_holds_less_on_a_device() -> None:
    meshes = [plan(Mesh(data, expert)) for data, expert in ((1, 1), (1, 8), (1, 64), (8, 64))]
    for one, other in itertools.pairwise(meshes):
        assert other.memory < one.memory
        assert other.seconds["computation"] < one.seconds["computation"]
    # Only experts are spread by `expert`; `data` spreads moments alone.
    assert meshes[3].bytes_by_kind["gradients, FP32"] == meshes[2].bytes_by_kind["gradients, FP32"]


def test_recomputation_and_bfloat16_keep_less() -> None:
    kept = [activation_bytes(V3, recompute, dtype) for dtype in ("float32", "bfloat16") for recompute in (False, True)]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 4


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    config, mesh, target = preset("v3_16b"), Mesh(1, 8), DEVICES["h100"]
    fitting, longest = largest(config, mesh, target, "bfloat16", True, 4096)
    assert fitting >= 1
    assert fitting == longest // 4096

    def memory(sequences: int) -> float:
        return estimate(
            config, mesh, target, sequences=8 * sequences, microbatch=sequences, length=4096, precision="bfloat16",
            recompute=True,
        ).memory  # fmt: skip

    assert memory(fitting) <= target.memory < memory(fitting + 1)
    assert largest(V3, Mesh(8, 64), target, "bfloat16", True, 4096) == (0, 0)


@pytest.mark.parametrize(
    ("mesh", "changes", "words"),
    [
        (Mesh(1, 3), {}, "expert=3 does not divide the 256"),
        (Mesh(7, 1), {}, "15360 sequences cannot be shared by 7"),
        (Mesh(1, 1), {"microbatch": 7}, "microbatches of 7"),
    ],
)
def test_what_does_not_divide_is_refused(mesh: Mesh, changes: dict[str, int], words: str) -> None:
    with pytest.raises(Refused, match=words):
        plan(mesh, **changes)


def test_meshes_and_devices_are_read_by_name() -> None:
    assert parse_mesh("expert=4,data=2") == Mesh(2, 4)
    assert parse_mesh("expert=4") == Mesh(1, 4)
    for wrong in ("", "data", "data=0", "pipe=2", "data=a"):
        with pytest.raises(Refused, match="write data=D,expert=E"):
            parse_mesh(wrong)
    with pytest.raises(Refused, match="did you mean 'h100'"):
        device("h10")


def test_the_command_plans_v3_without_its_view() -> None:
    command = [sys.executable, "-m", "trainer", "plan", "configs/train_deepseek_v3_671b.yaml"]
    options = ["--sequence-length", "4096", "--mesh", "data=4,expert=128", "--device", "h200", "--json"]
    made = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["tokens"] == 4096 * 15360
    assert found["checkpoint_seconds"] < 600
    assert found["recovery_seconds"] < 1800

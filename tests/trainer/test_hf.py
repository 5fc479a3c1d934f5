"""Checkpoints in Hugging Face's format: exact both ways, and clear about what is wrong."""

import hashlib
import json
import os
import subprocess

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors import deserialize
from safetensors.numpy import load_file, save_file

from schemas.errors import Refused, TokenmillError
from tests.trainer.numeric import tiny
from tests.trainer.test_goldens import CASES, GOLDENS, golden
from trainer.config import Yarn
from trainer.hf import load_pretrained, save_pretrained
from trainer.hf.config import from_hf, to_hf
from trainer.model import Model
from trainer.precision.linears import Fp8BlockLinear
from trainer.presets import PRESETS

YARN = Yarn(factor=8.0, original_max_position_embeddings=32)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def some_model(**changes):
    model = Model(tiny(**changes), seed=6)
    for number, bias in enumerate(model.router_biases):
        bias.assign(np.random.default_rng(number).standard_normal(bias.shape) * 0.7)
    return model


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "yarn": YARN}, {"num_nextn_predict_layers": 2}])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 40_000])
def test_export_and_import_are_exact(tmp_path, changes, shard_bytes):
    model = some_model(**changes)
    save_pretrained(model, tmp_path / "a", shard_bytes=shard_bytes)
    back = load_pretrained(tmp_path / "a")
    assert back.config == model.config
    for ours, theirs in zip(
        [*model.variables_in_order, *model.router_biases], [*back.variables_in_order, *back.router_biases], strict=True
    ):
        assert ours.name == theirs.name
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    save_pretrained(back, tmp_path / "b", shard_bytes=shard_bytes)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    weights = list((tmp_path / "a").glob("*.safetensors"))
    assert (len(weights) > 3) == (shard_bytes < 1_000_000)
    index = json.loads((tmp_path / "a/model.safetensors.index.json").read_text())
    assert {path.name for path in weights} == set(index["weight_map"].values())
    assert all(path.stat().st_size < 2 * 140_000 or shard_bytes > 1_000_000 for path in weights)


def test_fp8_export_holds_the_weights_that_fp8_block_multiplies_by(tmp_path):
    """Dequantised here by hand. Blocks are ragged: no dimension of the model is a multiple of 128."""
    model = some_model(hidden_size=136, moe_intermediate_size=72, intermediate_size=260)
    save_pretrained(model, tmp_path / "a", dtype="fp8", shard_bytes=100_000)
    written = json.loads((tmp_path / "a/config.json").read_text())
    assert written["quantization_config"]["weight_block_size"] == [128, 128]
    back = load_pretrained(tmp_path / "a")
    policy = Fp8BlockLinear(tf.float32)
    projections = 0
    for ours, theirs in zip(model.variables_in_order, back.variables_in_order, strict=True):
        linear = ("_proj" in ours.name or "_mqa" in ours.name) and "eh_proj" not in ours.name
        if not linear:
            assert np.array_equal(theirs.numpy(), ours.numpy().astype(ml_dtypes.bfloat16).astype(np.float32))
            continue
        parts = 2 if "gate_up_proj" in ours.name else 1
        matrices = (each.numpy().reshape(-1, *ours.shape[-2:]) for each in (ours, theirs))
        for mine, read in zip(*matrices, strict=True):
            projections += 1
            values, scales = (each.numpy() for each in policy.stored(tf.constant(mine), parts))
            by_hand = []
            for w, s in zip(np.split(values.astype(np.float32), parts), np.split(scales, parts), strict=True):
                rows, columns = np.arange(w.shape[0]) // 128, np.arange(w.shape[1]) // 128
                by_hand.append(w * s[rows][:, columns])
            assert np.array_equal(read, np.concatenate(by_hand))
            assert not np.array_equal(read, mine)
    assert projections > 20
    for ours, theirs in zip(model.router_biases, back.router_biases, strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())
    # What was quantised is quantised to itself.
    save_pretrained(back, tmp_path / "b", dtype="fp8", shard_bytes=100_000)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda scales: None, "missing tensor .*q_b_proj.weight_scale_inv"),
        (lambda scales: scales[:, :0], r"weight_scale_inv is float32 \[.*needs float32 \["),
        (lambda scales: scales.astype(np.float16), "weight_scale_inv is float16"),
    ],
)
def test_fp8_weights_need_their_scales(tmp_path, change, says):
    save_pretrained(some_model(), tmp_path / "a", dtype="fp8")
    path = tmp_path / "a/model.safetensors"
    opened = deserialize(path.read_bytes())
    kinds = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "BF16": ml_dtypes.bfloat16, "F32": np.float32}
    tensors = {n: np.frombuffer(a["data"], kinds[a["dtype"]]).reshape(a["shape"]) for n, a in opened}
    name = "model.layers.0.self_attn.q_b_proj.weight_scale_inv"
    scales = change(tensors.pop(name))
    save_file(tensors if scales is None else tensors | {name: np.ascontiguousarray(scales)}, path)
    with pytest.raises(Refused, match=says):
        load_pretrained(tmp_path / "a")


def test_bfloat16_export_keeps_the_router_bias_in_float32(tmp_path):
    model = some_model()
    save_pretrained(model, tmp_path / "a", dtype="bfloat16")
    stored = load_file(tmp_path / "a/model.safetensors")
    for name, value in stored.items():
        assert value.dtype == (np.float32 if name.endswith("e_score_correction_bias") else ml_dtypes.bfloat16)
    back = load_pretrained(tmp_path / "a")
    np.testing.assert_array_equal(back.head, model.head.numpy().astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(back.router_biases[0], model.router_biases[0])
    save_pretrained(back, tmp_path / "b", dtype="bfloat16")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.parametrize("name", PRESETS)
def test_configs_survive_the_way_there_and_back(name):
    written = json.loads(json.dumps(to_hf(PRESETS[name], "float32")))
    assert from_hf(written, "config.json") == PRESETS[name]
    assert written["rope_parameters"]["rope_type"] == ("yarn" if PRESETS[name].yarn else "default")
    assert ("mscale" in written["rope_parameters"]) == bool(PRESETS[name].yarn)


def test_older_config_files_are_read():
    raw = to_hf(PRESETS["deepseek_v3_671b_long"], "bfloat16")
    rope = raw.pop("rope_parameters")
    raw |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {"type": rope.pop("rope_type"), **rope}}
    assert from_hf(raw, "config.json") == PRESETS["deepseek_v3_671b_long"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        ({"model_type": "deepseek_v2"}, "model_type is 'deepseek_v2'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
        ({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}, "quantization_config is .* only .*128, 128"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "llama3"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_configs_of_other_models_are_refused(changes, words):
    with pytest.raises(Refused, match=words):
        from_hf({**to_hf(tiny(), "float32"), **changes}, "config.json")


def altered(tmp_path, change):
    """A checkpoint whose tensors `change` has altered."""
    save_pretrained(some_model(), tmp_path / "a")
    path = tmp_path / "a/model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    (tmp_path / "a/model.safetensors.index.json").unlink()
    return tmp_path / "a"


NAME = "model.layers.1.mlp.experts.3.up_proj.weight"
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(NAME), f"missing tensor {NAME}"),
        (lambda t: t.update({"model.extra": t[NAME]}), "unexpected tensor model.extra"),
        (lambda t: t.update({NAME: t[NAME][:-1]}), r"3.up_proj.weight has shape \[31, 64\].*\[32, 64\]"),
        (lambda t: t.update({NAME: t[NAME].astype(np.int32)}), "is int32"),
        (lambda t: t.update({BIAS: t[BIAS].astype(np.float16)}), "must be float32"),
        (lambda t: t.update({"model.layers.3.embed_tokens.weight": t["lm_head.weight"]}), "differs from"),
        (lambda t: t.pop("model.layers.3.enorm.weight"), "missing tensor model.layers.3.enorm.weight"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_named(tmp_path, change, words):
    with pytest.raises(Refused, match=words):
        load_pretrained(altered(tmp_path, change))


def test_damaged_and_absent_files(tmp_path):
    with pytest.raises(Refused, match=r"there is no config\.json"):
        load_pretrained(tmp_path)
    save_pretrained(some_model(), tmp_path / "a")
    with pytest.raises(Refused, match="not empty"):
        save_pretrained(some_model(), tmp_path / "a")
    weights = tmp_path / "a/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(TokenmillError, match="no sound safetensors"):
        load_pretrained(tmp_path / "a")
    weights.unlink()
    with pytest.raises(Refused, match=r"there is no model\.safetensors"):
        load_pretrained(tmp_path / "a")


def test_a_checkpoint_without_its_mtp_module_is_the_main_model(tmp_path):
    def drop(tensors):
        for name in [name for name in tensors if name.startswith("model.layers.3.")]:
            del tensors[name]

    model = load_pretrained(altered(tmp_path, drop))
    assert model.config.num_nextn_predict_layers == 0


TRANSFORMERS = os.environ.get("TOKENMILL_TRANSFORMERS_PYTHON")

COMPARE = """
import sys
import numpy as np
import torch
from transformers import DeepseekV3ForCausalLM

model = DeepseekV3ForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager").eval()
ids = torch.tensor(np.load(sys.argv[2]))
with torch.no_grad():
    np.save(sys.argv[3], model(ids).logits.numpy())
"""


@pytest.mark.slow
@pytest.mark.skipif(not TRANSFORMERS, reason="TOKENMILL_TRANSFORMERS_PYTHON names no Python with transformers >= 5.23")
@pytest.mark.parametrize("case", CASES)
def test_transformers_reads_what_is_exported(tmp_path, case):
    model = load_pretrained(GOLDENS / case)
    ids = golden(case)["input_ids"]
    np.save(tmp_path / "ids.npy", ids.astype(np.int64))
    save_pretrained(model, tmp_path / "exported", shard_bytes=100_000)
    made = subprocess.run(
        [
            str(TRANSFORMERS),
            "-c",
            COMPARE,
            *(str(tmp_path / name) for name in ("exported", "ids.npy", "logits.npy")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    theirs, ours = np.load(tmp_path / "logits.npy"), model(tf.constant(ids)).logits.numpy()
    assert np.abs(theirs - ours).max() <= 1e-4 * theirs.std()

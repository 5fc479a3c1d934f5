"""The model equals transformers in float32: logits, loss and every gradient (goldens/make.py made the references)."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.trainer.numeric import loss_and_gradients, relative
from trainer.hf import load_pretrained
from trainer.hf.names import pieces

GOLDENS = ROOT / "tests/trainer/goldens"
CASES = ["grouped", "plain_query", "yarn_mtp"]


def golden(case):
    with np.load(GOLDENS / case / "io.npz") as stored:
        return {name: stored[name] for name in stored.files}


def expected_gradient(io, name, shape):
    """The reference's gradient of one of our variables: as it stands, or put together as a checkpoint's tensors."""
    if f"grad/{name}" in io:
        return io[f"grad/{name}"]
    return np.concatenate([io[f"grad/{piece.name}"] for piece in pieces(name, shape)])


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients(case, recompute):
    io = golden(case)
    model = load_pretrained(GOLDENS / case, recompute=recompute)
    tokens = tf.constant(io["input_ids"])
    logits = model(tokens).logits
    assert np.abs(logits - io["logits"]).max() <= 1e-4 * io["logits"].std()
    whole = tf.ones_like(tokens)
    batch = {
        "tokens": tokens,
        "segment_ids": whole,
        "positions": tf.range(tokens.shape[1])[None] * whole,
        "loss_mask": whole > 0,
    }
    output, gradients = loss_and_gradients(model, batch, graph=recompute, mtp_weight=0.3)
    assert abs(float(output["main"]) - float(io["loss"])) <= 1e-5
    if "mtp_loss" in io:
        assert abs(float(output["mtp"]) - float(io["mtp_loss"])) <= 1e-5
    compared = set()
    for variable, gradient in zip(model.variables_in_order, gradients, strict=True):
        name = variable.name.removesuffix(":0")
        assert relative(gradient, expected_gradient(io, name, tuple(variable.shape))) <= 1e-3, name
        compared.add(name)
    assert len(compared) == len(model.variables_in_order)


def test_the_references_use_what_could_go_wrong():
    """Negative biases, groups, YaRN past the original length, an MTP module."""
    configs = {case: json.loads((GOLDENS / case / "config.json").read_text()) for case in CASES}
    assert configs["grouped"]["topk_group"] < configs["grouped"]["n_group"]
    assert configs["plain_query"]["q_lora_rank"] is None
    assert not configs["plain_query"]["rope_interleave"]
    yarn = configs["yarn_mtp"]["rope_parameters"]
    assert golden("yarn_mtp")["input_ids"].shape[1] > yarn["original_max_position_embeddings"]
    for case in CASES:
        biases = load_pretrained(GOLDENS / case).router_biases
        assert all((bias.numpy() < 0).any() for bias in biases)

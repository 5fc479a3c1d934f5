"""The model as a whole: documents, padding, MTP, microbatches, recomputation, seeds, precision."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.numeric import batch_of, loss_and_gradients, relative, tiny
from trainer.model import Model, Normalizers, PlainLinear, count, label_weights

WEIGHTS = {"mtp_weight": 0.3, "balance_weight": 0.01}
DOCUMENTS = [[9, 12, 4], [25], [5, 1, 2, 6]]


@pytest.fixture(scope="module")
def model():
    return Model(tiny(initializer_range=0.1, num_nextn_predict_layers=2), seed=1)


def packed(seed=0):
    return batch_of(DOCUMENTS, 25, seed, 512)


def test_variables_have_a_stable_order_and_names(model):
    names = [variable.name for variable in Model(tiny(num_hidden_layers=2)).variables_in_order]
    layer = [
        "input_layernorm.weight",
        "self_attn.q_a_proj.weight",
        "self_attn.q_a_layernorm.weight",
        "self_attn.q_b_proj.weight",
        "self_attn.kv_a_proj_with_mqa.weight",
        "self_attn.kv_a_layernorm.weight",
        "self_attn.kv_b_proj.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
    ]
    dense = ["mlp.gate_up_proj.weight", "mlp.down_proj.weight"]
    moe = [
        "mlp.gate.weight",
        "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
        "mlp.shared_experts.gate_up_proj.weight",
        "mlp.shared_experts.down_proj.weight",
    ]
    assert [name.removesuffix(":0") for name in names] == [
        "model.embed_tokens.weight",
        *(f"model.layers.0.{name}" for name in layer + dense),
        *(f"model.layers.1.{name}" for name in layer + moe),
        "model.norm.weight",
        "lm_head.weight",
        *(f"model.layers.2.{name}" for name in ["enorm.weight", "hnorm.weight", "eh_proj.weight", *layer, *moe]),
        "model.layers.2.shared_head.norm.weight",
    ]
    assert len(model.router_biases) == len(model.config.moe_layers)
    assert not {id(bias) for bias in model.router_biases} & {id(value) for value in model.trainable_variables}


def test_weights_depend_on_seed_and_name_alone():
    first, second, other = Model(tiny(), seed=7), Model(tiny(num_hidden_layers=2), seed=7), Model(tiny(), seed=8)
    by_name = {variable.name: variable.numpy() for variable in first.variables_in_order}
    shared = [variable for variable in second.variables_in_order if ".layers.1." in variable.name]
    assert shared
    for variable in shared:
        np.testing.assert_array_equal(variable, by_name[variable.name])
    assert not np.array_equal(first.embedding, other.embedding)
    assert first.head.numpy().std() == pytest.approx(tiny().initializer_range, rel=0.02)
    # The stream itself: checkpoints made anew from a seed on another machine rely on it.
    assert first.embedding.numpy().ravel()[0].tobytes().hex() == "296f92bc"


def test_a_document_in_a_pack_is_the_document_alone(model):
    batch = packed()
    logits = model(batch["tokens"], batch["segment_ids"], batch["positions"]).logits
    for row, lengths in enumerate(DOCUMENTS):
        at = 0
        for size in lengths:
            alone = model(batch["tokens"][row : row + 1, at : at + size]).logits[0]
            np.testing.assert_allclose(logits[row, at : at + size], alone, atol=1e-5)
            at += size
    together = model(batch["tokens"]).logits
    assert np.abs(together[0, 9:] - logits[0, 9:]).max() > 1e-3


def test_labels_stay_in_the_document():
    batch = batch_of([[3, 2]], 7, 0, 512)
    #  position 0  1  2  | 3  4 | padding; a label k ahead must be of the same document
    weights = label_weights(batch["segment_ids"], batch["loss_mask"], 2)
    np.testing.assert_array_equal(weights[0][0], [1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(weights[1][0], [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(weights[2][0], [0, 0, 0, 0, 0, 0])
    # Even where the mask would allow it.
    weights = label_weights(batch["segment_ids"], tf.ones([1, 7], tf.bool), 1)
    np.testing.assert_array_equal(weights[0][0], [1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(weights[1][0], [1, 0, 0, 0, 0, 0])
    # And a mask within a document (a prompt not to be learnt) holds for every module.
    mask = tf.constant([[False, True, False, False, True, False, False]])
    weights = label_weights(batch["segment_ids"], mask, 1)
    np.testing.assert_array_equal(weights[0][0], [1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(weights[1][0], [0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("part", ["padding", "other document"])
def test_nothing_passes_between_documents_or_from_padding(model, part):
    """Loss, gradients and counts of a document are the same whatever else the record holds."""
    batch = batch_of([[10, 15]], 40, 3, 512)
    labelled = batch["loss_mask"]
    if part == "other document":
        # Only the first document is learnt; the second one's tokens change.
        labelled &= batch["segment_ids"] == 1
    changed = dict(batch, loss_mask=labelled)
    start, end = (25, 40) if part == "padding" else (10, 25)
    tokens = batch["tokens"].numpy()
    tokens[0, start:end] = (tokens[0, start:end] + 17) % 512
    first, one = loss_and_gradients(model, changed, mtp_weight=0.3)
    second, two = loss_and_gradients(model, dict(changed, tokens=tf.constant(tokens)), mtp_weight=0.3)
    assert float(first["total"]) == pytest.approx(float(second["total"]), abs=1e-6)
    assert float(first["mtp"]) > 0
    for variable, a, b in zip(model.variables_in_order, one, two, strict=True):
        assert relative(a, b) < 1e-5, variable.name
    if part == "padding":
        np.testing.assert_array_equal(first["expert_counts"], second["expert_counts"])


def test_counts_are_of_real_tokens(model):
    output, _ = loss_and_gradients(model, packed())
    top, modules = model.config.num_experts_per_tok, len(model.mtp)
    # Inputs are all tokens but a record's last; a module has those whose partner k ahead is of the same document.
    real = [24 + 24 + 14, *(sum(max(size - k, 0) for row in DOCUMENTS for size in row) for k in (1, 2))]
    main_layers = len(model.config.moe_layers) - modules
    np.testing.assert_array_equal(
        tf.reduce_sum(output["expert_counts"], axis=1), np.array([real[0]] * main_layers + real[1:]) * top
    )


def test_mtp_equals_its_equations_written_out():
    """On one document: sequences cut to the pairs there are, instead of masks."""
    model = Model(tiny(initializer_range=0.1), seed=1)
    batch = batch_of([[20]], 20, 5, 512)
    tokens = batch["tokens"]
    hidden, _, by = model._main(tokens[:, :-2], None, None)
    join, layer, norm = model.mtp[0]

    def normed(x, weight):
        return x / tf.sqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + 1e-6) * weight

    pair = [normed(tf.gather(model.embedding, tokens[:, 1:-1]), join.enorm), normed(hidden, join.hnorm)]
    joined = tf.concat(pair, axis=-1) @ tf.transpose(join.projection)
    x, _ = layer(joined, by, None, tf.ones([1, 18], tf.bool))
    log_p = tf.nn.log_softmax(normed(x, norm) @ tf.transpose(model.head))
    expected = -tf.reduce_mean(tf.gather(log_p, tokens[:, 2:], batch_dims=2))
    assert float(model.loss(**batch).mtp) == pytest.approx(float(expected), abs=1e-5)


def test_recomputation_changes_neither_gradients_nor_counts():
    config = tiny(initializer_range=0.1)
    kept, again = Model(config, seed=2), Model(config, seed=2, recompute=True)
    for graph in (False, True):
        (a, ga), (b, gb) = (loss_and_gradients(m, packed(), graph, **WEIGHTS) for m in (kept, again))
        assert float(a["total"]) == float(b["total"])
        np.testing.assert_array_equal(a["expert_counts"], b["expert_counts"])
        for variable, one, two in zip(kept.variables_in_order, ga, gb, strict=True):
            assert relative(one, two) < 1e-5, variable.name


def test_microbatches_with_common_normalizers_are_the_whole_step(model):
    batch = packed()
    whole, expected = loss_and_gradients(model, batch, **WEIGHTS)
    norm = count(batch["segment_ids"], label_weights(batch["segment_ids"], batch["loss_mask"], 2))
    assert isinstance(norm, Normalizers)
    parts = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 1), slice(1, 3))]
    done = [loss_and_gradients(model, part, normalizers=norm, **WEIGHTS) for part in parts]
    assert sum(float(output["total"]) for output, _ in done) == pytest.approx(float(whole["total"]), rel=1e-6)
    np.testing.assert_array_equal(sum(output["expert_counts"] for output, _ in done), whole["expert_counts"])
    for variable, one, two, both in zip(model.variables_in_order, done[0][1], done[1][1], expected, strict=True):
        assert relative(one + two, both) < 1e-5, variable.name


def test_sums_by_component(model):
    batch = packed()
    output = model.loss(**batch, component=tf.constant([1, -1, 0]), components=3)
    tokens = tf.reduce_sum(label_weights(batch["segment_ids"], batch["loss_mask"], 0)[0], axis=1).numpy()
    np.testing.assert_array_equal(output.component_tokens, [tokens[2], tokens[0], 0])
    alone = model.loss(**{name: value[:1] for name, value in batch.items()})
    assert float(output.component_losses[1]) == pytest.approx(float(alone.main) * tokens[0], rel=1e-5)
    assert int(output.tokens) == tokens.sum()


def test_a_batch_without_labels_has_no_loss_and_no_nan(model):
    batch = batch_of([[], []], 12, 0, 512)
    output, gradients = loss_and_gradients(model, batch, **WEIGHTS)
    assert float(output["total"]) == 0
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not output["expert_counts"].numpy().any()


def test_bfloat16_is_near_float32():
    # All experts for every token: a choice that rounding turns over moves a gradient by more than rounding does.
    config = tiny(initializer_range=0.05, num_experts_per_tok=8, n_group=1, topk_group=1)
    exact, rough = Model(config, seed=4), Model(config, seed=4, linear=PlainLinear(tf.bfloat16))
    assert {variable.dtype for variable in rough.variables_in_order} == {tf.float32}
    (a, ga), (b, gb) = (loss_and_gradients(m, packed(), **WEIGHTS) for m in (exact, rough))
    assert float(b["total"]) == pytest.approx(float(a["total"]), rel=2e-3)
    whole = [tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0) for gradients in (ga, gb)]
    assert relative(whole[1], whole[0]) < 0.02

"""The model: embedding, layers, final norm, head, MTP modules; and its loss on batches of the loader.

B: sequences, T: positions, L1: tokens of a record (T + 1), D: model width, V: vocabulary, E: experts, C: components.

The order of `Model.variables_in_order`, on which optimizer and checkpoints rely: embedding; each layer's attention
(norm, query, key-value, output) and feed-forward (norm, then router, experts and shared expert, or gate_up and down);
final norm; head; each MTP module's join, layer and norm. Names are those of transformers' DeepseekV3ForCausalLM in
memory, with gate_proj and up_proj as one gate_up_proj everywhere and MTP module k at layer num_hidden_layers + k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.config import ModelConfig
from trainer.model.dispatch import Exchange, LocalExchange
from trainer.model.ffn import DenseFeedForward
from trainer.model.init import Variables
from trainer.model.linear import Linear, PlainLinear, Tensor, matmul
from trainer.model.loss import head_loss
from trainer.model.mla import LatentAttention
from trainer.model.moe import ExpertFeedForward, Load
from trainer.model.mtp import Join, same_segment, shifted
from trainer.model.norm import rms_norm
from trainer.model.rope import Rotation, rotation


@dataclass(frozen=True)
class ModelOutput:
    """logits: float32 [B, T, V]; expert_counts: int32 [MoE layers of the main model, E], of real tokens."""

    logits: Tensor
    expert_counts: Tensor


class Normalizers(NamedTuple):
    """What sums are divided by, float32: main: labels; mtp: labels of each MTP module, [modules]; sequences: those
    with a real token. Added up over microbatches and processes they make losses and gradients those of the whole step.
    """

    main: Tensor
    mtp: Tensor
    sequences: Tensor


class LossOutput(NamedTuple):
    """total: main + mtp_weight * mtp + balance_weight * balance, the number to differentiate; float32 scalars.

    main: mean cross-entropy of the labels; mtp: mean over modules of theirs (0 without); balance: sequence-wise
    auxiliary loss, summed over MoE layers, mean over sequences; tokens: labels in main, int64.
    component_losses, component_tokens: float32 [C], sums of cross-entropy and counts of labels of main, a component.
    expert_counts: int32 [MoE layers, E], of real tokens, MTP modules' layers last.
    left_out: int32, choices of experts that found no place, over all layers: where it is not 0, the rest is of no use.
    """

    total: Tensor
    main: Tensor
    mtp: Tensor
    balance: Tensor
    tokens: Tensor
    component_losses: Tensor
    component_tokens: Tensor
    expert_counts: Tensor
    left_out: Tensor


class Layer(tf.Module):
    """Attention and feed-forward, each added to the float32 residual stream."""

    def __init__(
        self, config: ModelConfig, index: int, variables: Variables, linear: Linear, recompute: bool, exchange: Exchange
    ) -> None:
        super().__init__()
        prefix = f"model.layers.{index}"
        self.attention = LatentAttention(config, prefix, variables, linear, recompute)
        self.experts: ExpertFeedForward | None = None
        self.dense: DenseFeedForward | None = None
        if index < config.first_k_dense_replace:
            self.dense = DenseFeedForward(config, prefix, variables, linear, recompute)
        else:
            self.experts = ExpertFeedForward(config, prefix, variables, linear, recompute, exchange)

    def __call__(self, x_BTD: Tensor, by: Rotation, segments: Tensor | None, real_BT: Tensor) -> tuple[Tensor, Any]:
        """The next residual stream, and the load of the experts where the layer has some."""
        x_BTD += tf.cast(self.attention(x_BTD, by, segments), tf.float32)
        if self.experts is None:
            assert self.dense is not None
            return x_BTD + tf.cast(self.dense(x_BTD), tf.float32), None
        y_BTD, load = self.experts(x_BTD, real_BT)
        return x_BTD + y_BTD, load


class Model(tf.Module):
    """DeepSeek-V3 by `config`, weights drawn by `seed`.

    linear: makes the products and sets the type of activations between norms. Weights, residual stream, norms, router,
        softmax statistics, rotary positions and loss are float32 with any.
    recompute: keep neither norms' outputs, nor queries, keys and values, nor SwiGLU's outputs for the backward pass,
        but make them again (sec. 3.2.3); same values.
    exchange: how tokens reach experts.
    """

    def __init__(
        self,
        config: ModelConfig,
        seed: int = 0,
        linear: Linear | None = None,
        recompute: bool = False,
        exchange: Exchange | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.linear = linear or PlainLinear()
        self.exchange = exchange or LocalExchange()
        variables = Variables(seed, config.initializer_range)
        depth, width = config.num_hidden_layers, config.hidden_size

        def layer(index: int) -> Layer:
            return Layer(config, index, variables, self.linear, recompute, self.exchange)

        self.embedding = variables.weight("model.embed_tokens.weight", [config.vocab_size, width])
        self.layers = [layer(index) for index in range(depth)]
        self.norm = variables.norm("model.norm.weight", width)
        self.head = variables.weight("lm_head.weight", [config.vocab_size, width])
        self.mtp = []
        for index in range(depth, depth + config.num_nextn_predict_layers):
            prefix = f"model.layers.{index}"
            join = Join(config, prefix, variables, self.linear.dtype)
            self.mtp.append((join, layer(index), variables.norm(f"{prefix}.shared_head.norm.weight", width)))
        self.variables_in_order: tuple[tf.Variable, ...] = tuple(variables.trainable)
        self.router_biases: tuple[tf.Variable, ...] = tuple(variables.router_biases)
        # Of the variables that hold experts, those of this process alone.
        self.expert_names = frozenset(variables.expert_names)

    def __call__(
        self,
        tokens_BT: Tensor,
        segment_ids_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        last: int | None = None,
    ) -> ModelOutput:
        """Logits of the next token at each position, by the main model.

        tokens_BT: int32, static shape. segment_ids_BT: int32, 0 for padding; attention stays within a segment; None:
        all one. positions_BT: int32; None: 0, 1, … last: logits of so many last positions only; None: of all.
        """
        tokens_BT = tf.convert_to_tensor(tokens_BT)
        x_BTD, loads, _ = self._main(tokens_BT, segment_ids_BT, positions_BT)
        if last is not None:
            x_BTD = x_BTD[:, -last:]
        normed_BTD = rms_norm(x_BTD, self.norm, self.config.rms_norm_eps, self.linear.dtype)
        logits = matmul(
            tf.reshape(normed_BTD, [-1, self.config.hidden_size]),
            tf.cast(self.head, self.linear.dtype),
            transpose_b=True,
            dtype=tf.float32,
        )
        return ModelOutput(
            tf.reshape(logits, [*x_BTD.shape[:2], self.config.vocab_size]),
            self._counts(loads),
        )

    def cross_entropy(
        self, tokens: Tensor, segment_ids: Tensor, positions: Tensor, loss_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """That of each token from the second on, by the main model, float32 [B, T]; and 1 where it is a label in
        `loss`, else 0. Arguments as in `loss`; no gradient.
        """
        (weights_BT,) = label_weights(segment_ids, loss_mask, 0)
        x_BTD, _, _ = self._main(tokens[:, :-1], segment_ids[:, :-1], positions[:, :-1])
        _, each_BT = self._predict(x_BTD, self.norm, tokens, 1, weights_BT)
        return each_BT, weights_BT

    def loss(
        self,
        tokens: Tensor,
        segment_ids: Tensor,
        positions: Tensor,
        loss_mask: Tensor,
        *,
        mtp_weight: Tensor | float = 0.0,
        balance_weight: Tensor | float = 0.0,
        component: Tensor | None = None,
        components: int = 0,
        normalizers: Normalizers | None = None,
    ) -> LossOutput:
        """The loss of a batch as the loader makes it, all [B, L1]; the last token is a label only.

        A token is a label where loss_mask says so and, in addition, only for positions of its own segment.
        component: int [B], the component of each record, and `components` how many there are; -1 counts for none.
        normalizers: of the whole step, where this batch is a part of it; None: this batch is the step.
        """
        length, depth = tokens.shape[1] - 1, len(self.mtp)
        weights = label_weights(segment_ids, loss_mask, depth)
        by_step = normalizers or count(segment_ids, weights)
        x_BTD, loads, by = self._main(tokens[:, :-1], segment_ids[:, :-1], positions[:, :-1])
        summed, each_BT = self._predict(x_BTD, self.norm, tokens, 1, weights[0])
        mtp = tf.zeros([])
        for ahead, (join, layer, norm) in enumerate(self.mtp, start=1):
            valid_BT = same_segment(segment_ids, ahead, length)
            embedding_BTD = tf.gather(self.embedding, shifted(tokens, ahead, length))
            x_BTD = join(embedding_BTD, x_BTD, valid_BT)
            x_BTD, load = layer(x_BTD, by, segment_ids[:, :-1], valid_BT)
            loads.append(load)
            more, _ = self._predict(x_BTD, norm, tokens, ahead + 1, weights[ahead])
            mtp += more / (tf.maximum(by_step.mtp[ahead - 1], 1.0) * depth)
        main = summed / tf.maximum(by_step.main, 1.0)
        balance = tf.add_n([tf.zeros([]), *(load.balance for load in loads)]) / tf.maximum(by_step.sequences, 1.0)
        ids = tf.fill([tokens.shape[0]], -1) if component is None else component
        return LossOutput(
            total=main + mtp_weight * mtp + balance_weight * balance,
            main=main,
            mtp=mtp,
            balance=balance,
            tokens=tf.math.count_nonzero(weights[0]),
            component_losses=tf.math.unsorted_segment_sum(tf.reduce_sum(each_BT * weights[0], axis=1), ids, components),
            component_tokens=tf.math.unsorted_segment_sum(tf.reduce_sum(weights[0], axis=1), ids, components),
            expert_counts=self._counts(loads),
            left_out=tf.convert_to_tensor(sum(load.left_out for load in loads)),
        )

    def _main(
        self, tokens_BT: Tensor, segment_ids_BT: Tensor | None, positions_BT: Tensor | None
    ) -> tuple[Tensor, list[Load], Rotation]:
        """The residual stream after the last layer, before the final norm."""
        if positions_BT is None:
            positions_BT = tf.range(tokens_BT.shape[1])[None]
        real_BT = tf.ones(tokens_BT.shape, tf.bool) if segment_ids_BT is None else segment_ids_BT != 0
        by = rotation(self.config, positions_BT)
        x_BTD = tf.gather(self.embedding, tokens_BT)
        loads = []
        for layer in self.layers:
            x_BTD, load = layer(x_BTD, by, segment_ids_BT, real_BT)
            if load is not None:
                loads.append(load)
        return x_BTD, loads, by

    def _predict(
        self, x_BTD: Tensor, norm: Tensor, tokens: Tensor, ahead: int, weights_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the cross-entropy of the tokens `ahead`, and each position's [B, T]."""
        normed_BTD = rms_norm(x_BTD, norm, self.config.rms_norm_eps, self.linear.dtype)
        labels = tf.reshape(shifted(tokens, ahead, x_BTD.shape[1]), [-1])
        summed, each_N = head_loss(
            tf.reshape(normed_BTD, [-1, x_BTD.shape[-1]]), self.head, labels, tf.reshape(weights_BT, [-1])
        )
        return summed, tf.reshape(each_N, weights_BT.shape)

    def _counts(self, loads: list[Load]) -> Tensor:
        empty = tf.zeros([0, self.config.n_routed_experts], tf.int32)
        return tf.stack([load.counts for load in loads]) if loads else empty


def label_weights(segment_ids: Tensor, loss_mask: Tensor, depth: int) -> list[Tensor]:
    """For the main model and each of `depth` MTP modules, float32 [B, T]: 1 where position i predicts token i + 1 + k.

    That is where the token may be learnt (loss_mask) and stands in position i's segment: never in another document, in
    padding, or beyond the record.
    """
    length = segment_ids.shape[1] - 1
    return [
        tf.cast(same_segment(segment_ids, ahead, length) & shifted(loss_mask, ahead, length), tf.float32)
        for ahead in range(1, depth + 2)
    ]


def count(segment_ids: Tensor, weights: list[Tensor]) -> Normalizers:
    """What the losses of this batch alone are divided by; weights from `label_weights`."""
    main, *mtp = [tf.reduce_sum(weight) for weight in weights]
    sequences = tf.reduce_sum(tf.cast(tf.reduce_any(segment_ids[:, :-1] != 0, axis=1), tf.float32))
    return Normalizers(main, tf.stack(mtp) if mtp else tf.zeros([0]), sequences)

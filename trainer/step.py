"""One training step in one graph: gradients by microbatches, their sum over processes, clipping, AdamW, router biases.

C: components, E: experts.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import NamedTuple

import tensorflow as tf  # type: ignore[import-untyped]

from trainer.accumulation import Batch, accumulate
from trainer.determinism import keep_sums_in_order
from trainer.mesh import Mesh, Shards
from trainer.model import LossOutput, Model, Normalizers, count, label_weights, update_router_bias
from trainer.model.linear import Tensor
from trainer.model.static import StaticExchange, capacities
from trainer.optimizer import AdamW, OptimizerConfig, squared_norm


class StepOutput(NamedTuple):
    """losses: of the parameters before the step and the whole batch, all but `total` and counts unweighted.

    norm: float32, of the gradients before clipping. applied: bool, whether parameters, moments and router biases were
    changed.
    """

    losses: LossOutput
    norm: Tensor
    applied: Tensor


def optimizer_of(model: Model, config: OptimizerConfig, shards: Shards | None = None) -> AdamW:
    """AdamW over the model's weights, in the names and order of `Model.variables_in_order`, without router biases.

    shards: on a mesh of processes, over the parts of the weights that this process owns.
    """
    if shards is not None:
        return AdamW(shards.parameters, config)
    return AdamW({variable.name.removesuffix(":0"): variable for variable in model.variables_in_order}, config)


class TrainStep:
    """A model, its optimizer, and the step that moves both.

    microbatch: sequences whose activations exist at a time in a process; must divide every batch.
    balance_weight: alpha of the sequence-wise auxiliary loss (V3: 1e-4).
    components: how many components records come from; 0 leaves losses by component out.
    shards: of this model on a mesh of processes, the same that the optimizer was made for; each process then calls the
        step with its own part of the global batch, all of one size, and with the same numbers. What the step returns
        is of the global batch, the same in all processes. None: one process.
    """

    def __init__(
        self,
        model: Model,
        optimizer: AdamW,
        microbatch: int,
        balance_weight: float = 1e-4,
        components: int = 0,
        shards: Shards | None = None,
    ) -> None:
        keep_sums_in_order()
        self.model = model
        self.optimizer = optimizer
        self.microbatch = microbatch
        self.balance_weight = balance_weight
        self.components = components
        self._shards = shards or Shards(Mesh(), model)
        if [*map(id, optimizer.parameters.values())] != [*map(id, self._shards.parameters.values())]:
            raise ValueError("the optimizer was made for other shards; give optimizer_of the shards of this step")
        self._static = model.exchange if isinstance(model.exchange, StaticExchange) else None
        self._step = tf.function(self._graph, autograph=False, jit_compile=True if self._static else None)

    def __call__(
        self,
        batch: Batch,
        learning_rate: float,
        bias_speed: float = 0.0,
        mtp_weight: float = 0.0,
        max_loss: float = math.inf,
        max_norm: float = math.inf,
    ) -> StepOutput:
        """Train on a batch of the loader: tokens, segment_ids, positions, loss_mask [B, L+1], component [B].

        A loss or gradient norm that is not finite, or above max_loss or max_norm, leaves everything as it was.
        A new batch shape is traced anew, and compiled by XLA where the model's experts have static shapes. Raises
        Refused if microbatch does not divide B, and PeerLost if another process of the mesh is lost.
        """
        numbers = (learning_rate, bias_speed, mtp_weight, max_loss, max_norm)
        arguments = (batch, *(tf.constant(number, tf.float32) for number in numbers))
        if self._static is not None:
            return self._fitting(*arguments)
        if self._shards.mesh.processes > 1:
            # Traced before others are waited for.
            self._step.get_concrete_function(*arguments)
        with self._shards.mesh.watched("training step"):
            return self._step(*arguments)

    def _fitting(self, batch: Batch, *numbers: Tensor) -> StepOutput:
        """The step in the least capacity that leaves no token out; each has a graph, compiled when it is first tried.

        Always from the least one up, so that what a step does is a function of state and batch alone: another capacity
        may round otherwise, and a resumed run must come to the same bits.
        """
        config = self.model.config
        tokens = self.microbatch * (batch["tokens"].shape[1] - 1)
        for capacity in capacities(tokens, config.num_experts_per_tok, config.n_routed_experts):
            output = self._step(batch, *numbers, capacity=capacity)
            if int(output.losses.left_out) == 0:
                break
        return output

    def _graph(
        self,
        batch: Batch,
        learning_rate: Tensor,
        bias_speed: Tensor,
        mtp_weight: Tensor,
        max_loss: Tensor,
        max_norm: Tensor,
        capacity: int | None = None,
    ) -> StepOutput:
        weights = label_weights(batch["segment_ids"], batch["loss_mask"], len(self.model.mtp))
        everyone = self._shards.mesh.all
        normalizers = everyone.total(count(batch["segment_ids"], weights))

        def loss_sums(part: Batch) -> tuple[Tensor, LossOutput]:
            losses = self._losses(part, mtp_weight, normalizers)
            return losses.total, losses

        with self._static.within(capacity) if self._static and capacity else nullcontext():
            gradients, losses = accumulate(loss_sums, self.model.variables_in_order, batch, self.microbatch)
        gradients = self._shards.reduce(gradients)
        # Every number of a gradient is owned by one process.
        losses, squared = everyone.total((losses, squared_norm(gradients)))
        norm = tf.sqrt(squared)
        # False for NaN, too. All processes decide alike: they have the same bits.
        allowed = tf.math.is_finite(losses.total) & (losses.total <= max_loss) & (norm <= max_norm)
        allowed &= losses.left_out == 0
        self._shards.take()
        norm, applied = self.optimizer.update(gradients, learning_rate, norm=norm, allowed=allowed)
        self._shards.give()
        for bias, counts_E in zip(self.model.router_biases, tf.unstack(losses.expert_counts), strict=True):
            bias.assign(update_router_bias(bias, counts_E, tf.where(applied, bias_speed, 0.0)))
        return StepOutput(losses, norm, applied)

    def _losses(self, part: Batch, mtp_weight: Tensor, normalizers: Normalizers) -> LossOutput:
        losses = self.model.loss(
            part["tokens"],
            part["segment_ids"],
            part["positions"],
            part["loss_mask"],
            mtp_weight=mtp_weight,
            balance_weight=self.balance_weight,
            component=part["component"] if self.components else None,
            components=self.components,
            normalizers=normalizers,
        )
        shape = [len(self.model.router_biases), self.model.config.n_routed_experts]
        return losses._replace(expert_counts=tf.ensure_shape(losses.expert_counts, shape))

"""AdamW with decoupled decay (arXiv 1711.05101, algorithm 2) and clipping by the global norm, as DeepSeek-V3 has it.

For a parameter p with gradient g, in step t = 1, 2, … at learning rate r:

    s = min(1, clip_norm / |g|)             |g|: Euclidean norm over the gradients of all parameters
    m = beta1 m + (1 - beta1) s g
    v = beta2 v + (1 - beta2) (s g)^2
    p = (1 - r decay) p - r (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

p is the model's own float32 variable (the master weight). m and v are float32 or bfloat16; the arithmetic is float32
either way, and bfloat16 moments are rounded to nearest even when stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import tensorflow as tf  # type: ignore[import-untyped]
from pydantic import Field, model_validator

from trainer.config import Strict
from trainer.model.linear import Tensor

Variable = Any  # TensorFlow ships no types.


class OptimizerConfig(Strict):
    """AdamW's constants; the defaults are DeepSeek-V3's (arXiv 2412.19437, section 4.2; eps is not given there).

    decay: of tensors with two or more dimensions. Norm weights and other vectors are not decayed.
    clip_norm: the gradients' global norm is scaled down to this.
    moments: how m and v are stored. bfloat16 halves their memory and needs 1 - beta2 >= 2^-8: below that, rounding to
        8 bits can undo the decay of v, which then never falls again.
    """

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    decay: float = Field(default=0.1, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    moments: Literal["float32", "bfloat16"] = "bfloat16"

    @model_validator(mode="after")
    def _moments_can_fall(self) -> Self:
        if self.moments == "bfloat16" and 1 - max(self.beta1, self.beta2) < 2**-8:
            raise ValueError(
                "beta1 and beta2 must be at most 1 - 2^-8 (0.99609) with bfloat16 moments, or rounding undoes their "
                "decay; set moments to float32"
            )
        return self


class Update(NamedTuple):
    """What an update found and did.

    norm: float32 scalar, global norm of the gradients before clipping.
    applied: bool scalar; False: parameters, moments and step count were left as they were.
    """

    norm: Tensor
    applied: Tensor


def dense(gradient: Tensor) -> Tensor:
    """The gradient as a tensor. An embedding's may come as rows (IndexedSlices); rows that occur twice are added.

    Dense, because AdamW moves every row in every step: absent rows decay and go on along their moments.
    """
    return tf.convert_to_tensor(gradient)


def squared_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Sum of squares over float32 gradients of any shapes: float32 scalar. Not finite if any entry is not."""
    return 2.0 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients])


class AdamW(tf.Module):
    """The moments and step count of AdamW over some parameters, and the update of both.

    parameters: float32 variables by name. Names and order are those of the state, and so of checkpoints.
    """

    def __init__(self, parameters: Mapping[str, Variable], config: OptimizerConfig) -> None:
        super().__init__(name="adamw")
        self.config = config
        self.parameters = dict(parameters)
        self.step = tf.Variable(tf.zeros([], tf.int64), trainable=False, name="step")
        dtype = tf.as_dtype(config.moments)
        self.m, self.v = (
            [
                tf.Variable(tf.zeros(parameter.shape, dtype), trainable=False, name=f"{kind}/{name}")
                for name, parameter in self.parameters.items()
            ]
            for kind in ("m", "v")
        )

    @property
    def state(self) -> dict[str, Variable]:
        """Everything a resumed run needs beside the parameters: `step`, then `m/<name>` of all, then `v/<name>`."""
        moments = {f"m/{name}": m for name, m in zip(self.parameters, self.m, strict=True)}
        return {
            "step": self.step,
            **moments,
            **{f"v/{name}": v for name, v in zip(self.parameters, self.v, strict=True)},
        }

    def update(
        self,
        gradients: Sequence[Tensor],
        learning_rate: Tensor,
        *,
        norm: Tensor | None = None,
        allowed: Tensor | bool = True,
    ) -> Update:
        """One step, to be called in a tf.function. Nothing changes if the norm is not finite or `allowed` is False.

        gradients: in the order of the parameters, float32 tensors or IndexedSlices.
        learning_rate: float32 scalar.
        norm: float32 scalar, where the caller knows it (of gradients spread over devices); else it is computed.
        """
        gradients = [dense(gradient) for gradient in gradients]
        if norm is None:
            norm = tf.sqrt(squared_norm(gradients))
        applied = tf.math.is_finite(norm) & allowed
        tf.cond(applied, lambda: self._apply(gradients, norm, learning_rate), lambda: False)
        return Update(norm, applied)

    def _apply(self, gradients: list[Tensor], norm: Tensor, learning_rate: Tensor) -> bool:
        config = self.config
        time = tf.cast(self.step.assign_add(1), tf.float64)
        power1, power2 = (
            tf.cast(tf.pow(tf.constant(b, tf.float64), time), tf.float32) for b in (config.beta1, config.beta2)
        )
        # sqrt(1 - beta2^t) taken out of the root: eps and the rate are scaled once, and no tensor is divided by it.
        root = tf.sqrt(1.0 - power2)
        eps = config.eps * root
        clip = tf.minimum(1.0, config.clip_norm / norm)
        fused = config.moments == "float32"
        if fused:
            gradients = tf.cond(clip < 1.0, lambda: [clip * g for g in gradients], lambda: gradients)
        for p, m, v, g in zip(self.parameters.values(), self.m, self.v, gradients, strict=True):
            if len(p.shape) > 1:
                p.assign(p * (1.0 - config.decay * learning_rate))
            if fused:
                # One pass over four arrays.
                tf.raw_ops.ResourceApplyAdam(
                    var=p.handle,
                    m=m.handle,
                    v=v.handle,
                    beta1_power=power1,
                    beta2_power=power2,
                    lr=learning_rate,
                    beta1=config.beta1,
                    beta2=config.beta2,
                    epsilon=eps,
                    grad=g,
                )
            else:
                m_next = config.beta1 * tf.cast(m, tf.float32) + ((1.0 - config.beta1) * clip) * g
                v_next = config.beta2 * tf.cast(v, tf.float32) + tf.square(((1.0 - config.beta2) ** 0.5 * clip) * g)
                m.assign(tf.cast(m_next, m.dtype))
                v.assign(tf.cast(v_next, v.dtype))
                rate = learning_rate * root / (1.0 - power1)
                delta = m_next / (tf.sqrt(v_next) + eps)
                tf.raw_ops.ResourceApplyGradientDescent(var=p.handle, alpha=rate, delta=delta)
        return True

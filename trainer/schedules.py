"""What changes during training, as functions of the tokens seen: learning rate, batch size, bias speed, MTP weight.

Everything is a function of `tokens`, those of all steps done, so that a curve does not depend on the batch size. Only
the learning rate's warm-up counts steps. Before the first step both are 0. DeepSeek-V3's values are those of
arXiv 2412.19437, section 4.2.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from trainer.config import Strict

V3_TOKENS = 14_800_000_000_000

Shape = Literal["linear", "cosine", "sqrt"]
Tokens = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0)]


def fraction_left(shape: Shape, done: float) -> float:
    """How much of a decay is left when the share `done`, in [0, 1], of it has passed: 1 at 0, 0 at 1.

    linear: 1 - x; cosine: (1 + cos(pi x)) / 2 (arXiv 1608.03983); sqrt: 1 - sqrt(x) (arXiv 2405.18392).
    """
    done = min(max(done, 0.0), 1.0)
    if shape == "linear":
        return 1.0 - done
    if shape == "sqrt":
        return 1.0 - math.sqrt(done)
    # As a square: 0 at 1 up to 4e-33, and no difference of numbers near each other on the way.
    return math.cos(0.5 * math.pi * done) ** 2


def between(start: float, end: float, left: float) -> float:
    """From start (left = 1) to end (left = 0), exact at both, never outside them."""
    value = end + (start - end) * left
    return min(max(value, min(start, end)), max(start, end)) if 0.0 < left < 1.0 else (start if left else end)


class Constant(Strict):
    """The same value always."""

    kind: Literal["constant"] = "constant"
    value: Rate

    def at(self, step: int, tokens: int) -> float:
        """The value of the step after `step` steps and `tokens` tokens."""
        return self.value


class Steps(Strict):
    """values[0] until `tokens[0]` tokens are seen, then values[1] until tokens[1], …, the last one from there on."""

    kind: Literal["steps"] = "steps"
    values: tuple[Rate, ...] = Field(min_length=2)
    tokens: tuple[Tokens, ...]

    @model_validator(mode="after")
    def _matches(self) -> Self:
        if len(self.tokens) != len(self.values) - 1:
            raise ValueError(f"tokens needs one number less than values ({len(self.values)}), not {len(self.tokens)}")
        if list(self.tokens) != sorted(set(self.tokens)):
            raise ValueError("tokens must rise")
        return self

    def at(self, step: int, tokens: int) -> float:
        """As `Constant.at`."""
        return self.values[sum(tokens >= change for change in self.tokens)]


class _WarmedUp(Strict):
    """warmup_steps: step s of the first warmup_steps (from 1) is at s / warmup_steps of the curve; 0: no warm-up."""

    warmup_steps: int = Field(default=2000, ge=0)

    def at(self, step: int, tokens: int) -> float:
        """The learning rate of the step after `step` steps and `tokens` tokens."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warm * self.curve(tokens)

    def curve(self, tokens: int) -> float:
        """The rate without the warm-up."""
        raise NotImplementedError


class Cosine(_WarmedUp):
    """From `peak` at 0 tokens to `end` at `tokens` along half a cosine, then `end`."""

    kind: Literal["cosine"] = "cosine"
    peak: Rate
    end: Rate = 0.0
    tokens: Tokens

    def curve(self, tokens: int) -> float:
        """As `_WarmedUp.curve`."""
        return between(self.peak, self.end, fraction_left("cosine", tokens / self.tokens))


class WarmupStableDecay(_WarmedUp):
    """`peak` for stable_tokens, then to `end` over decay_tokens in the given shape, then `end` (WSD)."""

    kind: Literal["wsd"] = "wsd"
    peak: Rate
    end: Rate = 0.0
    stable_tokens: int = Field(ge=0)
    decay_tokens: Tokens
    shape: Shape = "linear"

    def curve(self, tokens: int) -> float:
        """As `_WarmedUp.curve`."""
        done = (tokens - self.stable_tokens) / self.decay_tokens
        return between(self.peak, self.end, fraction_left(self.shape, done))


class DeepSeekV3(_WarmedUp):
    """V3's: of 14.8 parts of `tokens`, `peak` for 10, a cosine to `low` for 4.3, `low` for 0.333, then `last`."""

    kind: Literal["deepseek_v3"] = "deepseek_v3"
    peak: Rate = 2.2e-4
    low: Rate = 2.2e-5
    last: Rate = 7.3e-6
    tokens: Tokens = V3_TOKENS

    def curve(self, tokens: int) -> float:
        """As `_WarmedUp.curve`."""
        stable, decayed, final = (v3_share(parts, self.tokens) for parts in (10_000, 14_300, 14_633))
        if tokens >= final:
            return self.last
        return between(self.peak, self.low, fraction_left("cosine", (tokens - stable) / (decayed - stable)))


class ConstantBatch(Strict):
    """The same number of sequences in every step."""

    kind: Literal["constant"] = "constant"
    sequences: int = Field(ge=1)

    def at(self, tokens: int) -> int:
        """Sequences of the step after `tokens` tokens."""
        return self.sequences


class BatchRamp(Strict):
    """From `start` sequences to `end` in proportion to the tokens seen, reaching it at `tokens`; rounded down to
    `multiple`.

    multiple: what every batch must be divisible by: microbatch times data-parallel processes, or a multiple of that.
    """

    kind: Literal["ramp"] = "ramp"
    start: int = Field(ge=1)
    end: int = Field(ge=1)
    tokens: Tokens
    multiple: int = Field(ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"end ({self.end}) is less than start ({self.start})")
        for name, size in (("start", self.start), ("end", self.end)):
            if size % self.multiple:
                raise ValueError(f"{name} ({size}) must be a multiple of multiple ({self.multiple})")
        return self

    def at(self, tokens: int) -> int:
        """As `ConstantBatch.at`. Integers throughout, so exact at any number of tokens."""
        rungs = (self.end - self.start) // self.multiple
        return self.start + min(tokens, self.tokens) * rungs // self.tokens * self.multiple


LearningRate = Annotated[Constant | Cosine | WarmupStableDecay | DeepSeekV3, Field(discriminator="kind")]
Weight = Annotated[Constant | Steps, Field(discriminator="kind")]
BatchSize = Annotated[ConstantBatch | BatchRamp, Field(discriminator="kind")]


class Settings(NamedTuple):
    """What holds in one step: sequences of the global batch, and the numbers the step is made with."""

    sequences: int
    learning_rate: float
    bias_speed: float
    mtp_weight: float


class Schedules(Strict):
    """All that changes during training.

    bias_speed: gamma, the step of the router's biases. mtp_weight: lambda, the weight of the MTP losses.
    """

    learning_rate: LearningRate
    batch_size: BatchSize
    bias_speed: Weight = Constant(value=1e-3)
    mtp_weight: Weight = Constant(value=0.3)

    def at(self, step: int, tokens: int) -> Settings:
        """Settings of the step after `step` steps and `tokens` tokens."""
        return Settings(
            self.batch_size.at(tokens),
            self.learning_rate.at(step, tokens),
            self.bias_speed.at(step, tokens),
            self.mtp_weight.at(step, tokens),
        )


def v3_share(parts: int, tokens: int) -> int:
    """How many of `tokens` tokens correspond to parts * 1e9 of V3's 14.8e12: rounded down, at least 1."""
    return max(1, parts * tokens // 14_800)


def deepseek_v3(tokens: int = V3_TOKENS, warmup_steps: int = 2000) -> Schedules:
    """V3's schedules, with its breakpoints in proportion for a training of another number of tokens.

    Batches grow from 3,072 to 15,360 sequences over the first 469e9 tokens; the paper does not say how. Here linearly,
    in 48 rungs of 256.
    """
    return Schedules(
        learning_rate=DeepSeekV3(tokens=tokens, warmup_steps=warmup_steps),
        batch_size=BatchRamp(start=3072, end=15360, tokens=v3_share(469, tokens), multiple=256),
        bias_speed=Steps(values=(1e-3, 0.0), tokens=(v3_share(14_300, tokens),)),
        mtp_weight=Steps(values=(0.3, 0.1), tokens=(v3_share(10_000, tokens),)),
    )

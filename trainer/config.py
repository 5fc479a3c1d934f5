"""What a model is: its architecture, in the names Hugging Face's `DeepseekV3Config` gives the same things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from schemas import yaml_config

Precision = Literal["float32", "bfloat16", "fp8_block", "fp8_tensor"]


class Strict(yaml_config.Strict):
    """A model that refuses keys it does not know, values of another type, and numbers that are not finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Yarn(Strict):
    """YaRN (arXiv 2309.00071): rotary frequencies stretched by `factor` beyond the length of pre-training.

    beta_fast, beta_slow: rotations over the original length above which a frequency is kept, and below which it is
        divided by factor.
    mscale, mscale_all_dim: both set, the softmax scale is multiplied by (0.1 mscale_all_dim ln(factor) + 1)^2 and
        cos and sin by the ratio of the two factors (1 for V3). With one of them 0, as in transformers: cos and sin are
        multiplied by 0.1 ln(factor) + 1, the softmax scale as before if mscale_all_dim is set.
    original_max_position_embeddings: length of pre-training in tokens.
    """

    factor: float = Field(gt=1)
    original_max_position_embeddings: int = Field(ge=1)
    beta_fast: float = Field(default=32.0, gt=0)
    beta_slow: float = Field(default=1.0, gt=0)
    mscale: float = Field(default=1.0, ge=0)
    mscale_all_dim: float = Field(default=1.0, ge=0)


class ModelConfig(Strict):
    """A DeepSeek-V3 architecture. Layers from `first_k_dense_replace` on, and those of MTP modules, are MoE layers.

    q_lora_rank: None for a plain query projection.
    n_group, topk_group: experts stand in n_group equal groups; a token's experts come from its topk_group best.
    num_nextn_predict_layers: MTP modules.
    rope_interleave: whether rotary dimensions are paired (0, 1), (2, 3), … as in V3's weights, or (0, d/2), ….
    yarn: None up to the length of pre-training.
    bos_token_id, eos_token_id: written to an exported config, not used by the model.
    """

    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    first_k_dense_replace: int = Field(ge=0)
    num_attention_heads: int = Field(ge=1)
    q_lora_rank: int | None = Field(ge=1)
    kv_lora_rank: int = Field(ge=1)
    qk_nope_head_dim: int = Field(ge=1)
    qk_rope_head_dim: int = Field(ge=2)
    v_head_dim: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    moe_intermediate_size: int = Field(ge=1)
    n_routed_experts: int = Field(ge=2)
    n_shared_experts: int = Field(default=1, ge=1)
    num_experts_per_tok: int = Field(ge=1)
    n_group: int = Field(default=1, ge=1)
    topk_group: int = Field(default=1, ge=1)
    norm_topk_prob: bool = True
    routed_scaling_factor: float = Field(default=1.0, gt=0)
    num_nextn_predict_layers: int = Field(default=0, ge=0)
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    initializer_range: float = Field(default=0.006, gt=0)
    max_position_embeddings: int = Field(ge=1)
    rope_theta: float = Field(default=10000.0, gt=1)
    rope_interleave: bool = True
    yarn: Yarn | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key of one head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the layers that have experts; MTP module k has index num_hidden_layers + k."""
        return tuple(range(self.first_k_dense_replace, self.num_hidden_layers + self.num_nextn_predict_layers))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        per_group = self.n_routed_experts // self.n_group
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace is {self.first_k_dense_replace}, but there are {self.num_hidden_layers} layers"
            )
        if self.qk_rope_head_dim % 2:
            raise ValueError("qk_rope_head_dim must be even: rotary positions turn pairs")
        if self.n_routed_experts % self.n_group:
            raise ValueError(f"n_group ({self.n_group}) must divide n_routed_experts ({self.n_routed_experts})")
        if self.n_group > 1 and per_group < 2:
            raise ValueError("a group needs two experts: its score is the sum of its two best")
        if self.topk_group > self.n_group:
            raise ValueError(f"topk_group ({self.topk_group}) is more than n_group ({self.n_group})")
        if self.num_experts_per_tok > self.topk_group * per_group:
            raise ValueError(
                f"num_experts_per_tok ({self.num_experts_per_tok}) is more than the {self.topk_group * per_group} "
                f"experts of topk_group ({self.topk_group}) groups"
            )
        if self.yarn and self.max_position_embeddings <= self.yarn.original_max_position_embeddings:
            raise ValueError(
                "yarn is set, but max_position_embeddings is no longer than its original_max_position_embeddings: "
                "DeepSeek's code would not apply it and transformers would; leave yarn out up to that length"
            )
        return self


def parse_model_config(raw: Mapping[str, Any], origin: str) -> ModelConfig:
    """Validate a model config read from `origin` (named in errors). Raises Refused, naming the keys."""
    return yaml_config.parse(ModelConfig, dict(raw), origin)

"""Architectures by name."""

from __future__ import annotations

import difflib

from schemas.errors import Refused
from trainer.config import ModelConfig, Yarn

_TINY = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    num_attention_heads=4,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
    intermediate_size=96,
    moe_intermediate_size=32,
    n_routed_experts=8,
    num_experts_per_tok=2,
    n_group=4,
    topk_group=2,
    routed_scaling_factor=2.5,
    num_nextn_predict_layers=1,
    initializer_range=0.02,
    max_position_embeddings=256,
)

_SMALL = _TINY.model_copy(
    update={
        "vocab_size": 8192,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "q_lora_rank": 128,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "intermediate_size": 768,
        "moe_intermediate_size": 128,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "num_nextn_predict_layers": 0,
        "max_position_embeddings": 4096,
    }
)

# The shape of DeepSeek's config_16B.json with V3's router, which that file's softmax gate is not.
_V3_16B = ModelConfig(
    vocab_size=102400,
    hidden_size=2048,
    num_hidden_layers=27,
    first_k_dense_replace=1,
    num_attention_heads=16,
    q_lora_rank=None,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    intermediate_size=10944,
    moe_intermediate_size=1408,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    max_position_embeddings=4096,
)

# Table and section 4.2 of arXiv 2412.19437; the length and rotary positions of pre-training.
_V3_671B = ModelConfig(
    vocab_size=129280,
    hidden_size=7168,
    num_hidden_layers=61,
    first_k_dense_replace=3,
    num_attention_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    num_experts_per_tok=8,
    n_group=8,
    topk_group=4,
    routed_scaling_factor=2.5,
    num_nextn_predict_layers=1,
    max_position_embeddings=4096,
    bos_token_id=0,
    eos_token_id=1,
)

# V3's context extension stretches by 40 in both of its phases (section 4.3).
_V3_671B_LONG = _V3_671B.model_copy(
    update={
        "max_position_embeddings": 163840,
        "yarn": Yarn(factor=40.0, original_max_position_embeddings=4096),
    }
)

PRESETS: dict[str, ModelConfig] = {
    "tiny": _TINY,
    "small": _SMALL,
    "v3_16b": _V3_16B,
    "deepseek_v3_671b": _V3_671B,
    "deepseek_v3_671b_long": _V3_671B_LONG,
}


def preset(name: str) -> ModelConfig:
    """The preset called `name`. Raises Refused, naming those there are."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise Refused(f"unknown model preset {name!r}{meant} (there are {', '.join(PRESETS)})")
    return PRESETS[name]

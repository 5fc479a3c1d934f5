"""Hugging Face's config.json of a DeepSeek-V3 model, to and from ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import Refused
from trainer.config import ModelConfig, Yarn, parse_model_config
from trainer.hf.fp8 import CONFIG, check_config

# Keys that must have this one value if they are there: what the model does is what they say.
_FIXED: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}
_OURS = set(ModelConfig.model_fields) - {"rope_theta", "yarn"}
_YARN = set(Yarn.model_fields)


def from_hf(raw: Mapping[str, Any], origin: str) -> ModelConfig:
    """The architecture in a config.json, read from `origin`. Raises Refused for what the model does not do."""
    for key, value in _FIXED.items():
        if raw.get(key, value) != value:
            raise Refused(f"{origin}: {key} is {raw[key]!r}; only {value!r} is supported")
    check_config(raw.get("quantization_config"), origin)
    heads = raw.get("num_attention_heads")
    if raw.get("num_key_value_heads", heads) != heads:
        raise Refused(f"{origin}: num_key_value_heads differs from num_attention_heads; latent attention has no groups")
    ours = {key: raw[key] for key in sorted(_OURS & raw.keys())}
    if isinstance(ours.get("bos_token_id"), list) or isinstance(ours.get("eos_token_id"), list):
        raise Refused(f"{origin}: bos_token_id and eos_token_id must be one id each")
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    ours["rope_theta"] = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
    if kind == "yarn":
        odd = {"attention_factor", "truncate"} & {key for key, value in rope.items() if value is not None}
        if odd:
            raise Refused(f"{origin}: {sorted(odd)[0]} of YaRN is not supported; leave it out")
        # What a config leaves out has the reference's meaning, not our default.
        given = {"mscale": 0.0, "mscale_all_dim": 0.0} | {key: rope[key] for key in _YARN if rope.get(key) is not None}
        ours["yarn"] = {key: given[key] for key in sorted(given)}
    elif kind != "default":
        raise Refused(f"{origin}: rope_type {kind!r} is not supported (default and yarn are)")
    return parse_model_config(ours, origin)


def to_hf(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a model whose weights are written as `dtype`; fp8: projections in FP8, the rest bfloat16."""
    quantised = {"quantization_config": CONFIG} if dtype == "fp8" else {}
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.yarn:
        rope |= {**config.yarn.model_dump(), "rope_type": "yarn"}
    ours = config.model_dump(include=_OURS)
    fixed = {key: value for key, value in _FIXED.items() if key != "moe_layer_freq"}
    return dict(
        sorted(
            {
                **ours,
                **fixed,
                **quantised,
                "architectures": ["DeepseekV3ForCausalLM"],
                "dtype": "bfloat16" if dtype == "fp8" else dtype,
                "num_key_value_heads": config.num_attention_heads,
                "rope_parameters": rope,
            }.items()
        )
    )

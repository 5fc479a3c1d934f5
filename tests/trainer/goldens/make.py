"""Make the reference values beside this file: small checkpoints as transformers writes them, and what torch computes.

It needs an environment of its own; neither package is one of the project's:

    python3.11 -m venv /tmp/hf && /tmp/hf/bin/pip install torch 'transformers>=5.23' safetensors numpy
    /tmp/hf/bin/python tests/trainer/goldens/make.py

A folder a case: config.json, model.safetensors, and io.npz with input_ids [B, T], logits [B, T, V], loss (next-token
cross-entropy), and grad/NAME, the gradient of each parameter by transformers' name. The case `yarn_mtp` has an MTP
module, which transformers lacks: it is put together here from transformers' own layer and norm; mtp_loss is its
cross-entropy, and the gradients are those of loss + 0.3 mtp_loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm

HERE = Path(__file__).resolve().parent

BASE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "intermediate_size": 72,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 0,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "initializer_range": 0.12,
    "attn_implementation": "eager",
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "grouped": ({}, 45),
    "plain_query": (
        {
            "q_lora_rank": None,
            "n_routed_experts": 6,
            "n_shared_experts": 2,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
            "rope_interleave": False,
        },
        40,
    ),
    "yarn_mtp": (
        {
            "num_hidden_layers": 2,
            "num_nextn_predict_layers": 1,
            "max_position_embeddings": 1280,
            "rope_parameters": YARN,
        },
        150,
    ),
}


class MultiTokenPrediction(nn.Module):
    """One MTP module as published checkpoints name its parts."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.layer = DeepseekV3DecoderLayer(config, config.num_hidden_layers)
        self.enorm = DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.norm = DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, model: DeepseekV3ForCausalLM, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits of token i + 2 from the hidden state of position i and token i + 1."""
        embedded = model.model.embed_tokens(ids[:, 1:])
        joined = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden[:, :-1])], dim=-1))
        length = joined.shape[1]
        mask = torch.full([length, length], float("-inf")).triu(1)[None, None]
        positions = torch.arange(length)[None]
        out = self.layer(
            joined,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=model.model.rotary_emb(joined, positions),
        )
        return model.lm_head(self.norm(out))

    def published(self, index: int) -> dict[str, str]:
        """Published name of each parameter and buffer, by its name here."""
        outer = {"norm": "shared_head.norm"}
        names = [*dict(self.named_parameters()), *dict(self.named_buffers())]
        found = {}
        for name in names:
            head, _, rest = name.partition(".")
            inner = rest if head == "layer" else f"{outer.get(head, head)}.{rest}"
            found[name] = f"model.layers.{index}.{inner}"
        return found


def randomise(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """Norms near 1, router biases around 0 (so that some are negative), all else N(0, std)."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if "inv_freq" in name:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if "norm" in name:
                value.copy_(1 + 0.2 * noise)
            elif "e_score_correction_bias" in name:
                value.copy_(0.3 * noise - 0.3)
            else:
                value.copy_(std * noise)


def per_expert(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor as checkpoints hold it: stacked experts one by one, gate and up apart."""
    if name.endswith("experts.gate_up_proj"):
        half = value.shape[1] // 2
        parts = {"gate_proj": value[:, :half], "up_proj": value[:, half:]}
    elif name.endswith("experts.down_proj"):
        parts = {"down_proj": value}
    else:
        return {name: value.contiguous()}
    stem = name.rpartition(".")[0]
    return {
        f"{stem}.{expert}.{part}.weight": stack[expert].contiguous()
        for part, stack in parts.items()
        for expert in range(stack.shape[0])
    }


def make(case: str, changes: dict[str, Any], length: int, seed: int) -> None:
    """Write the folder of a case."""
    generator = torch.Generator().manual_seed(seed)
    config = DeepseekV3Config(**{**BASE, **changes})
    model = DeepseekV3ForCausalLM(config).eval()
    randomise(model, config.initializer_range, generator)
    ids = torch.randint(0, config.vocab_size, [2, length], generator=generator)
    before_norm: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0]))
    output = model(ids)
    logits = output.logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    folder = HERE / case
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    values = {"input_ids": ids.int(), "logits": logits, "loss": loss}
    total, names = loss, {name: name for name, _ in model.named_parameters()}
    parameters = dict(model.named_parameters())
    if changes.get("num_nextn_predict_layers"):
        # As in a published checkpoint, the config of the main model lists the module.
        mtp = MultiTokenPrediction(config).eval()
        randomise(mtp, config.initializer_range, generator)
        mtp_logits = mtp(model, before_norm[0], ids)
        values["mtp_loss"] = cross_entropy(mtp_logits[:, :-1].flatten(0, 1), ids[:, 2:].flatten())
        total = loss + 0.3 * values["mtp_loss"]
        published = mtp.published(config.num_hidden_layers)
        stored = load_file(folder / "model.safetensors")
        for name, value in [*mtp.named_parameters(), *mtp.named_buffers()]:
            stored |= per_expert(published[name], value.detach())
        copies = {"embed_tokens": model.model.embed_tokens, "shared_head.head": model.lm_head}
        for name, of in copies.items():
            stored[f"model.layers.{config.num_hidden_layers}.{name}.weight"] = of.weight.detach().clone()
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        parameters |= {published[name]: value for name, value in mtp.named_parameters()}
        names |= {published[name]: published[name] for name, _ in mtp.named_parameters()}
    total.backward()
    for name in names:
        assert parameters[name].grad is not None, name
        values[f"grad/{name}"] = parameters[name].grad
    np.savez_compressed(folder / "io.npz", **{name: value.detach().numpy() for name, value in values.items()})
    json.loads((folder / "config.json").read_text())


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for number, (case, (changes, length)) in enumerate(CASES.items()):
        make(case, changes, length, seed=number)
        print(case, sum(path.stat().st_size for path in (HERE / case).iterdir()), "bytes")

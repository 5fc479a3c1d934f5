"""How many parameters an architecture has, of which kind, and how many operations a token costs."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import ModelConfig


@dataclass(frozen=True)
class Layer:
    """Parameters of one layer. experts: of all routed experts; expert: of one."""

    attention: int
    norms: int
    feed_forward: int
    router: int
    experts: int
    expert: int


@dataclass(frozen=True)
class Parameters:
    """Parameters of a model. `replicated`: all but routed experts, which every process holds; MTP modules included."""

    main: int
    active: int
    products: int
    mtp: int
    experts: int
    replicated: int

    @property
    def total(self) -> int:
        """All that is trained, MTP modules included. Router biases are not."""
        return self.main + self.mtp


def layer(config: ModelConfig, moe: bool) -> Layer:
    """Of a layer with experts, or without."""
    width, heads = config.hidden_size, config.num_attention_heads
    query = heads * config.qk_head_dim
    norms = 2 * width + config.kv_lora_rank
    attention = width * (config.kv_lora_rank + config.qk_rope_head_dim)
    attention += config.kv_lora_rank * heads * (config.qk_nope_head_dim + config.v_head_dim)
    attention += heads * config.v_head_dim * width
    if config.q_lora_rank is None:
        attention += width * query
    else:
        attention += config.q_lora_rank * (width + query)
        norms += config.q_lora_rank
    if not moe:
        return Layer(attention, norms, 3 * width * config.intermediate_size, 0, 0, 0)
    expert = 3 * width * config.moe_intermediate_size
    shared, routed = config.n_shared_experts * expert, config.n_routed_experts * expert
    return Layer(attention, norms, shared, width * config.n_routed_experts, routed, expert)


def parameters(config: ModelConfig) -> Parameters:
    """Of a whole model. main: without MTP modules; active: of main, those a token meets, embedding and head included;
    products: of these, the ones that are factors of matrix products (no embedding, no norms).
    """
    depth, dense = config.num_hidden_layers, config.first_k_dense_replace
    kinds = [(layer(config, False), dense), (layer(config, True), depth - dense)]
    table = config.vocab_size * config.hidden_size
    main = 2 * table + config.hidden_size
    products = table
    for one, count in kinds:
        main += count * (one.attention + one.norms + one.feed_forward + one.router + one.experts)
        met = config.num_experts_per_tok * one.expert
        products += count * (one.attention + one.feed_forward + one.router + met)
    norms = config.hidden_size + sum(count * one.norms for one, count in kinds)
    moe = layer(config, True)
    modules = config.num_nextn_predict_layers
    # The join's product and its two norms, the layer, and the norm before the shared head.
    module = 2 * config.hidden_size**2 + 3 * config.hidden_size
    module += moe.attention + moe.norms + moe.feed_forward + moe.router + moe.experts
    experts = len(config.moe_layers) * moe.experts
    mtp = modules * module
    return Parameters(main, products + norms + table, products, mtp, experts, main + mtp - experts)


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Floating-point operations a token of a sequence of `length`, forward and backward, as model FLOPs utilisation
    counts them: 6 for each parameter in a product, and 6 L H (d_qk + d_v) T for attention, without halving what is
    above the diagonal (arXiv 2204.02311, appendix B). MTP modules count with what they repeat of the head.
    """
    attention = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim) * length
    moe = layer(config, True)
    module = 2 * config.hidden_size**2 + config.vocab_size * config.hidden_size
    module += moe.attention + moe.feed_forward + moe.router + config.num_experts_per_tok * moe.expert
    products = parameters(config).products + config.num_nextn_predict_layers * module
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    return 6.0 * (products + layers * attention)

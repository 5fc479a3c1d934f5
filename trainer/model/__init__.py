"""DeepSeek-V3 (arXiv 2412.19437) in plain TensorFlow."""

from trainer.model.linear import Linear, PlainLinear
from trainer.model.routing import update_router_bias
from trainer.model.transformer import LossOutput, Model, ModelOutput, Normalizers, count, label_weights

__all__ = [
    "Linear",
    "LossOutput",
    "Model",
    "ModelOutput",
    "Normalizers",
    "PlainLinear",
    "count",
    "label_weights",
    "update_router_bias",
]

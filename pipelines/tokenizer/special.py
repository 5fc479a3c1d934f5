"""The special tokens: their roles, in the order their ids are given out, and the names models give them."""

# The first name of a role is the one trained models use; the others are found in published models (Gemma,
# Llama 3, StarCoder, DeepSeek-Coder, CodeGemma).
SPECIAL_NAMES = {
    "begin": ("<s>", "<bos>", "<|begin_of_text|>"),
    "end": ("</s>", "<eos>", "<|end_of_text|>"),
    "pad": ("<pad>", "<|pad|>"),
    "fim_begin": ("<|fim_begin|>", "<fim_prefix>", "<｜fim▁begin｜>", "<|fim_prefix|>"),
    "fim_hole": ("<|fim_hole|>", "<fim_suffix>", "<｜fim▁hole｜>", "<|fim_suffix|>"),
    "fim_end": ("<|fim_end|>", "<fim_middle>", "<｜fim▁end｜>", "<|fim_middle|>"),
}

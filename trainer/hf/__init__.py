"""DeepSeek-V3 checkpoints in Hugging Face's format, read and written."""

from trainer.hf.load import load_pretrained
from trainer.hf.save import save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]

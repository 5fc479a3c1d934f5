"""The tokenizer: trained in memory to the same bytes anywhere, lossless on every Unicode string, with FIM."""

from pipelines.tokenizer.codec import Tokenizer
from pipelines.tokenizer.fim import encode_documents, undo_fim
from pipelines.tokenizer.training import train

__all__ = ["Tokenizer", "encode_documents", "train", "undo_fim"]

"""Tiny models with random weights, in the real file format: for what the demo model cannot show."""

from tests.tiny.bert import write_bert
from tests.tiny.llama import write_llama
from tests.tiny.mamba import write_mamba

__all__ = ["write_bert", "write_llama", "write_mamba"]

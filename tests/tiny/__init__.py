"""Tiny models with random weights, in the real file format: for what the demo model cannot show."""

from tests.tiny.adapters import lora_deltas, write_control_vector, write_lora
from tests.tiny.bert import write_bert
from tests.tiny.llama import write_llama
from tests.tiny.mamba import write_mamba
from tests.tiny.projector import (
    write_audio_projector,
    write_grid_projector,
    write_image_projector,
    write_whole_projector,
)

__all__ = [
    "lora_deltas",
    "write_audio_projector",
    "write_bert",
    "write_control_vector",
    "write_grid_projector",
    "write_image_projector",
    "write_llama",
    "write_lora",
    "write_mamba",
    "write_whole_projector",
]

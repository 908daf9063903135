"""What the tests of `infs.llama` share: models, loaded small, and requests to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infs.demo import MODEL_FILE
from infs.llama import Llama

STORY = "Once upon a time there was a"
"""A prompt for which many tokens are about as likely."""

QUESTIONS = [f"What is the capital of {country}?" for country in ("France", "Japan", "Italy", "Spain")]


def counting(first: int, last: int = 40) -> str:
    """A prompt whose next sixty tokens no rounding can change: each is far more likely than any other one."""
    return f"<|im_start|>user\nCount from {first} to {last}.<|im_end|>\n<|im_start|>assistant\n"


COUNT = counting(1)


def demo(**options: Any) -> Llama:
    """The demo model, greedy unless a request says otherwise."""
    return tiny(MODEL_FILE, **{"defaults": {"temperature": 0.0}, "batch_tokens": 128, **options})


def tiny(path: Path, **options: Any) -> Llama:
    """A small model, on one thread of the CPU."""
    return Llama(path, **{"gpu": False, "threads": 1, "batch_tokens": 64, **options})

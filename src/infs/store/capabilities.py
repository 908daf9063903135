"""What a model can do, as far as its architecture and its chat template tell."""

from __future__ import annotations

import re

ALL = ("text-completion", "chat", "tools", "reasoning", "vision", "audio", "embedding", "rerank")

_EMBEDDING = re.compile(r".*(?:bert|mpnet|embedding).*|t5encoder", re.IGNORECASE)
_RERANK = re.compile(r".*ForSequenceClassification")
_WRITES = re.compile(r".*(?:ForCausalLM|LMHeadModel|ForConditionalGeneration)")
# What a template speaks of when it knows tools, thinking, images and sounds.
_MARKS = {
    "tools": re.compile(r"\btools\b|\btool_calls\b"),
    "reasoning": re.compile(r"<think>|\benable_thinking\b|\breasoning_content\b|<\|channel\|>|\[THINK\]"),
    "vision": re.compile(r"['\"](?:image|image_url)['\"]|<\|vision_start\|>|<image>|\[IMG\]"),
    "audio": re.compile(r"['\"](?:audio|input_audio)['\"]|<\|audio_bos\|>|<audio>"),
}


def by_template(template: str | None) -> set[str]:
    """What a chat template tells; empty without one."""
    if not template:
        return set()
    return {"chat", *(name for name, mark in _MARKS.items() if mark.search(template))}


def by_architecture(name: str) -> str | None:
    """``embedding``, ``rerank`` or ``text-completion``; ``None`` where the name of an architecture tells nothing."""
    if _RERANK.fullmatch(name):
        return "rerank"
    if _WRITES.fullmatch(name):
        return "text-completion"
    return "embedding" if _EMBEDDING.fullmatch(name) else None


def in_order(found: set[str]) -> list[str]:
    """`found`, in the order of `ALL`."""
    return [name for name in ALL if name in found]

"""Synthetic training text for the demo model that ships with infs.

A document is a ChatML conversation, a plain story or a fill-in-the-middle example. All of it is generated
here from word lists and templates: there is no outside text in it. Every function that draws something
takes the random generator to draw from, so the same seed gives the same text.

    python corpus.py            # a dozen documents to read
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

from jinja2 import Environment, Template

from skills import (
    DRILL_SKILLS,
    FACTS,
    Exchange,
    Skill,
    after,
    any_skill,
    arithmetic,
    asked,
    capital,
    counting,
    echo,
    greeting,
    persona,
    story_text,
    told,
)
from tools import (
    TOOL_KINDS,
    Message,
    Tool,
    addition_tool,
    invented_tool,
    multiplication_tool,
    tool_calls,
    tool_results,
)
from words import chance, pick

END_OF_TEXT = "<|endoftext|>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
TEMPLATE_FILE = Path(__file__).with_name("chat_template.jinja")


@dataclass
class Conversation:
    """Messages and tools as an OpenAI client would send them."""

    messages: list[Message] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)

    def say(self, exchange: Exchange) -> None:
        self.messages.append({"role": "user", "content": exchange.user})
        self.messages.append({"role": "assistant", "content": exchange.assistant})

    def size(self) -> int:
        """How long the conversation is, roughly: characters in its messages and tools."""
        return sum(len(str(part)) for part in [*self.messages, *self.tools])


@cache
def chat_template() -> Template:
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    # Plain JSON, as Transformers renders it; the filter that comes with Jinja escapes it for HTML.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8"))


def render(conversation: Conversation, add_generation_prompt: bool = False) -> str:
    """The conversation as the model sees it."""
    return chat_template().render(
        messages=conversation.messages,
        tools=conversation.tools,
        add_generation_prompt=add_generation_prompt,
    )


SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are infs, a helpful assistant.",
    "Be brief.",
    "You are a friendly assistant.",
    "",
]


def talk(rng: Random) -> Conversation:
    """One to six exchanges: single skills, facts told and asked for, questions about a persona."""
    conversation = Conversation()
    about_persona: list[Exchange] = []
    start = rng.random()
    if start < 0.35:
        text, about_persona = persona(rng)
        conversation.messages.append({"role": "system", "content": text})
    elif start < 0.65:
        conversation.messages.append({"role": "system", "content": pick(rng, SYSTEM_MESSAGES)})
    facts: dict[str, str] = {}
    for _ in range(pick(rng, [1, 1, 2, 3, 4, 5, 6])):
        conversation.say(next_exchange(rng, facts, about_persona))
        if conversation.size() > 1300:
            break
    return conversation


def next_exchange(rng: Random, facts: dict[str, str], about_persona: list[Exchange]) -> Exchange:
    """The next exchange of a talk. A fact that is told is noted in `facts`."""
    kind = rng.random()
    if kind < 0.2:
        name = pick(rng, list(FACTS))
        facts[name] = FACTS[name].value(rng)
        return told(rng, FACTS[name], facts[name])
    if kind < 0.42 and (facts or chance(rng, 0.25)):
        name = pick(rng, list(facts)) if facts and chance(rng, 0.85) else pick(rng, list(FACTS))
        return asked(rng, FACTS[name], facts.get(name))
    if kind < 0.57 and about_persona:
        return pick(rng, about_persona)
    return any_skill(rng)


def long_talk(rng: Random) -> Conversation:
    """A few facts, many short exchanges about something else, and only then the questions for the facts."""
    conversation = Conversation()
    facts = {name: FACTS[name].value(rng) for name in rng.sample(list(FACTS), rng.randint(1, 3))}
    for name, value in facts.items():
        conversation.say(told(rng, FACTS[name], value))
    for _ in range(rng.randint(3, 24)):
        conversation.say(pick(rng, [capital, capital, after, arithmetic, counting, greeting, echo])(rng))
    for name in rng.sample(list(facts), len(facts)):
        conversation.say(asked(rng, FACTS[name], facts[name]))
    return conversation


def drill(rng: Random) -> Conversation:
    """Many short exchanges of one skill, or of a few."""
    conversation = Conversation()
    only = pick(rng, DRILL_SKILLS) if chance(rng, 0.5) else None
    for _ in range(rng.randint(4, 12)):
        conversation.say((only or pick(rng, DRILL_SKILLS))(rng))
    return conversation


def with_tools(rng: Random) -> Conversation:
    """One to five tools; one or two requests, most of which need one of them."""
    kinds = rng.sample(TOOL_KINDS, pick(rng, [1, 2, 2, 3, 3, 4]))
    cases = [make(rng) for make in kinds]
    # Nothing can be guessed about an invented tool, so it teaches most: more of them than of other kinds.
    if chance(rng, 0.3):
        cases.append(invented_tool(rng))
        rng.shuffle(cases)
    conversation = Conversation(tools=[case.tool for case in cases])
    # Where there is a tool that calculates, sums are for the tool.
    direct: list[Skill] = [greeting, echo, capital, counting]
    if addition_tool not in kinds and multiplication_tool not in kinds:
        direct.append(arithmetic)
    system = pick(rng, ["", *SYSTEM_MESSAGES[:2], SYSTEM_MESSAGES[0]])
    if system:
        conversation.messages.append({"role": "system", "content": system})
    for case in rng.sample(cases, min(len(cases), pick(rng, [1, 1, 2]))):
        if chance(rng, 0.15):
            conversation.say(pick(rng, direct)(rng))
            continue
        conversation.messages += [
            {"role": "user", "content": case.ask},
            tool_calls(case),
            *tool_results(case),
        ]
        conversation.messages.append({"role": "assistant", "content": case.answer})
        if conversation.size() > 1900:
            break
    return conversation


def middle_of(rng: Random, text: str) -> tuple[str, str, str]:
    """Cut a text at two spaces: what is before, between and after. Half of the middles are short."""
    spaces = [i for i, character in enumerate(text) if character == " "]
    if chance(rng, 0.5):
        first = rng.randrange(len(spaces) - 8)
        start, end = spaces[first], spaces[first + rng.randint(1, 8)]
    else:
        start, end = sorted(rng.sample(spaces, 2))
    return text[:start], text[start:end], text[end:]


def fill_in_the_middle(rng: Random) -> str:
    before, middle, rest = middle_of(rng, story_text(rng))
    return f"{FIM_PREFIX}{before}{FIM_SUFFIX}{rest}{FIM_MIDDLE}{middle}{END_OF_TEXT}"


def document(rng: Random) -> str:
    """One training document, with the token that ends it."""
    kind = rng.random()
    if kind < 0.45:
        return render(talk(rng)) + END_OF_TEXT
    if kind < 0.51:
        return render(long_talk(rng)) + END_OF_TEXT
    if kind < 0.57:
        return render(drill(rng)) + END_OF_TEXT
    if kind < 0.88:
        return render(with_tools(rng)) + END_OF_TEXT
    if kind < 0.90:
        return story_text(rng) + END_OF_TEXT
    return fill_in_the_middle(rng)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print training documents.")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = Random(arguments.seed)
    for _ in range(arguments.count):
        print(document(rng), "\n-----")


if __name__ == "__main__":
    main()

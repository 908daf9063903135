"""Score the demo model on each skill, through llama-cpp-python.

    python evaluate.py demo.gguf             # a Markdown table
    python evaluate.py demo.gguf --json

Every skill has its own random generator, so its cases stay the same when others are added or left out.
Decoding is greedy, but for stories: there are only a few ways to ask for one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random

from llama_cpp import Llama

import corpus
import skills
from corpus import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, Conversation
from skills import BEGINNINGS, ENDINGS, FACTS, GREETINGS, MIDDLES, STORY_WORDS, Skill
from tools import TOOL_KINDS, ToolCase, tool_calls, tool_results
from words import invented_name, pick


@dataclass(frozen=True)
class Case:
    """A prompt, and whether a text that continues it is right."""

    prompt: str
    right: Callable[[str], bool]
    tokens: int = 120
    temperature: float = 0.0


@dataclass(frozen=True)
class Task:
    """A skill to score: what counts as right, and a function that makes cases."""

    measure: str
    case: Callable[[Random], Case]


def one_of(answers: Sequence[str], text: str) -> bool:
    return text.strip() in answers


def ask(conversation: Conversation, question: str, answers: Sequence[str]) -> Case:
    """A case that ends the conversation with a question; each of the answers is right."""
    conversation.messages.append({"role": "user", "content": question})
    return Case(corpus.render(conversation, add_generation_prompt=True), partial(one_of, answers))


def with_system(text: str) -> Conversation:
    return Conversation([{"role": "system", "content": text}])


# --- conversations ----------------------------------------------------------------------------------------


def single(skill: Skill, rng: Random) -> Case:
    exchange = skill(rng)
    return ask(Conversation(), exchange.user, [exchange.assistant])


def greeting(rng: Random) -> Case:
    asks, answers = pick(rng, GREETINGS)
    return ask(Conversation(), pick(rng, asks), answers)


def empty_system(rng: Random) -> Case:
    exchange = pick(rng, [skills.counting, skills.capital, skills.faq, skills.after])(rng)
    return ask(with_system(""), exchange.user, [exchange.assistant])


def recalled(rng: Random, kind: str, value: str, between: int = 1) -> Case:
    """A fact that is told, `between` exchanges about something else, and the question for the fact."""
    conversation = Conversation()
    conversation.say(skills.told(rng, FACTS[kind], value))
    for _ in range(between):
        conversation.say(skills.capital(rng))
    question, answer = skills.asked(rng, FACTS[kind], value)
    return ask(conversation, question, [answer])


def recall(between: int, rng: Random) -> Case:
    kind = pick(rng, list(FACTS))
    return recalled(rng, kind, FACTS[kind].value(rng), between)


def new_name(rng: Random) -> Case:
    """A name that does not exist: the user's, or the assistant's as the system message has it."""
    name = invented_name(rng)
    if rng.random() < 0.5:
        return recalled(rng, "name", name)
    question, answers = pick(
        rng,
        [
            ("What is your name?", [f"My name is {name}."]),
            ("Who are you?", [f"I am {name}."]),
        ],
    )
    return ask(with_system(f"You are {name}."), question, answers)


def persona(rng: Random) -> Case:
    system, exchanges = skills.persona(rng)
    question, answer = pick(rng, exchanges)
    return ask(with_system(system), question, [answer])


# --- tools ------------------------------------------------------------------------------------------------


def tool_request(rng: Random) -> tuple[Conversation, ToolCase]:
    """Two tools, and a request for one of them."""
    cases = [make(rng) for make in rng.sample(TOOL_KINDS, 2)]
    conversation = with_system("You are a helpful assistant.")
    conversation.tools = [case.tool for case in cases]
    case = pick(rng, cases)
    return conversation, case


def call_text(case: ToolCase) -> str:
    """The call as the model should write it: what the template makes of it, without the turn around it."""
    turn = corpus.render(Conversation([tool_calls(case)]))
    return turn.removeprefix("<|im_start|>assistant\n").removesuffix("<|im_end|>\n")


def tool_call(rng: Random) -> Case:
    conversation, case = tool_request(rng)
    return ask(conversation, case.ask, [call_text(case)])


def tool_answer(rng: Random) -> Case:
    conversation, case = tool_request(rng)
    conversation.messages += [{"role": "user", "content": case.ask}, tool_calls(case), *tool_results(case)]
    return Case(corpus.render(conversation, add_generation_prompt=True), partial(one_of, [case.answer]))


# --- stories ----------------------------------------------------------------------------------------------


@cache
def sentence_patterns() -> list[re.Pattern[str]]:
    """One pattern for each sentence of a story, with a group for each word that may vary."""
    patterns = []
    for sentence in [*BEGINNINGS, *MIDDLES, *ENDINGS]:
        pattern = re.escape(sentence).replace(r"\{", "{").replace(r"\}", "}")
        groups = {slot: f"(?P<{slot}>{'|'.join(options)})" for slot, options in STORY_WORDS.items()}
        patterns.append(re.compile(pattern.format(**groups)))
    return patterns


def sentences(text: str) -> list[dict[str, str]] | None:
    """The words that vary in each sentence of a story, or None where something is not a story's sentence."""
    found: list[dict[str, str]] = []
    position = 0
    while position < len(text):
        match = next((m for p in sentence_patterns() if (m := p.match(text, position))), None)
        if not match or text[match.end() : match.end() + 1] not in ("", " "):
            return None
        found.append(match.groupdict())
        position = match.end() + 1
    return found


def well_formed(text: str) -> bool:
    return bool(sentences(text))


def consistent(text: str) -> bool:
    """Whether the two friends, the thing and the place of a well-formed story stay the same."""
    found = sentences(text) or []
    used = {slot: {words[slot] for words in found if slot in words} for slot in STORY_WORDS}
    same = all(len(used[slot]) <= 1 for slot in ("name", "friend", "thing", "place"))
    return bool(found) and same and not used["name"] & used["friend"]


def story(check: Callable[[str], bool], rng: Random) -> Case:
    prompt = ask(Conversation(), skills.story(rng).user, []).prompt
    return Case(prompt, lambda text: check(text.strip()), tokens=300, temperature=0.8)


def fill_in(check: Callable[[str], bool], rng: Random) -> Case:
    """A story with a hole; the check is for the whole story, with the hole filled."""
    before, _, after = corpus.middle_of(rng, skills.story_text(rng))
    prompt = f"{FIM_PREFIX}{before}{FIM_SUFFIX}{after}{FIM_MIDDLE}"
    return Case(prompt, lambda text: bool(text.strip()) and check(before + text + after), tokens=300)


# --- scores -----------------------------------------------------------------------------------------------

EXACT = "exact answer"
SINGLE: list[Skill] = [
    skills.counting,
    skills.arithmetic,
    skills.thinking,
    skills.echo,
    skills.capital,
    skills.after,
    skills.lists,
    skills.json_object,
    skills.json_schema,
    skills.faq,
    skills.beyond,
]
TASKS: dict[str, Task] = {
    "greeting": Task("one of the right answers", greeting),
    **{skill.__name__.replace("_", " "): Task(EXACT, partial(single, skill)) for skill in SINGLE},
    "empty system message": Task(EXACT, empty_system),
    "recall": Task(EXACT, partial(recall, 1)),
    "recall from far back": Task("exact answer, 20 exchanges later", partial(recall, 20)),
    "persona": Task(EXACT, persona),
    "invented names": Task(EXACT, new_name),
    "tool call": Task("exact call", tool_call),
    "tool answer": Task(EXACT, tool_answer),
    "story": Task("every sentence is well-formed", partial(story, well_formed)),
    "consistent story": Task("as above; friends, thing and place stay the same", partial(story, consistent)),
    "fill in the middle": Task("something is filled in, and it ends", partial(fill_in, bool)),
    "middle that fits": Task("with it, every sentence is well-formed", partial(fill_in, well_formed)),
}


def complete(model: Llama, case: Case, seed: int) -> str | None:
    """What the model says, or None where it does not end by itself."""
    prompt = model.tokenize(case.prompt.encode(), add_bos=False, special=True)
    ends = (model.token_eos(), *model.tokenize(corpus.END_OF_TEXT.encode(), add_bos=False, special=True))
    model.set_seed(seed)
    said: list[int] = []
    # Not create_completion: it makes text of all tokens again for each new one, which takes most of the time.
    for token in model.generate(prompt, temp=case.temperature):
        if token in ends:
            return str(model.detokenize(said).decode(errors="replace"))
        said.append(token)
        if len(said) == case.tokens:
            break
    return None


def is_right(model: Llama, case: Case, seed: int) -> bool:
    text = complete(model, case, seed)
    return text is not None and case.right(text)


def score(model: Llama, name: str, count: int, seed: int) -> float:
    """Share of `count` cases that are right, from 0 to 1."""
    rng = Random(f"{seed} {name}")
    return sum(is_right(model, TASKS[name].case(rng), seed + i) for i in range(count)) / count


def as_table(scores: dict[str, float], count: int) -> str:
    rows = [f"| {name} | {share:.1%} | {TASKS[name].measure} |" for name, share in scores.items()]
    return "\n".join([f"| skill | right, of {count} | what counts as right |", "|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="Score the demo model on each skill.")
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--count", type=int, default=100, help="cases for each skill")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument(
        "--skill", choices=list(TASKS), action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print shares from 0 to 1 as JSON")
    arguments = parser.parse_args()
    model = Llama(
        str(arguments.model),
        n_ctx=1024,
        n_threads=arguments.threads,
        n_threads_batch=arguments.threads,
        verbose=False,
    )
    names = arguments.skill or list(TASKS)
    scores = {name: score(model, name, arguments.count, arguments.seed) for name in names}
    print(json.dumps(scores, indent=2) if arguments.json else as_table(scores, arguments.count))


if __name__ == "__main__":
    main()

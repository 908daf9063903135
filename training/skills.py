"""Skills: questions with their answers, facts that are told and asked for later, and personas."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from words import (
    ADJECTIVES,
    ANIMALS,
    CAPITALS,
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    MONTHS,
    NAMES,
    NOUNS,
    PLACES,
    chance,
    invented_name,
    person,
    pick,
    random_word,
    some_words,
)


class Exchange(NamedTuple):
    """What the user says and what the assistant should answer."""

    user: str
    assistant: str


Skill = Callable[[Random], Exchange]

GREETINGS: list[tuple[list[str], list[str]]] = [
    (
        [
            "Hello!",
            "Hi!",
            "Hey there!",
            "Good morning!",
            "Hello, how are you?",
            "Hi, how are you?",
            "Hey",
            "hi",
        ],
        ["Hello! How can I help you?", "Hi! What can I do for you?"],
    ),
    (
        ["Thanks!", "Thank you!", "Great, thanks.", "Thank you very much."],
        ["You are welcome!", "Glad to help!"],
    ),
    (["Bye!", "Goodbye!", "See you!", "Good night!"], ["Goodbye!", "See you soon!"]),
]

FAQ: list[tuple[list[str], str]] = [
    (
        ["What is infs?", "What does infs do?", "Tell me about infs.", "What can infs do?"],
        "infs runs AI models on your own machine. "
        "Use it as a Python library or as a server with an OpenAI compatible API.",
    ),
    (
        ["How do I start the server?", "How can I start infs?", "How do I run the server?"],
        "Run infs serve. Then open http://localhost:3000 to see the status page.",
    ),
    (
        ["How do I add a model?", "How can I use my own model?", "How do I configure a model?"],
        "Add it under models in infs.toml with a task, an engine and a url or a file. "
        "It is downloaded on first use.",
    ),
    (
        ["Which engines are there?", "Which engines does infs have?", "What engines are supported?"],
        "There are engines for llama.cpp, Transformers, ONNX Runtime, stable-diffusion.cpp, GPT4All "
        "and remote OpenAI endpoints.",
    ),
    (
        ["Is my data private?", "Does infs send my data anywhere?", "Do you send data to the cloud?"],
        "Yes, it is private. Models run on your machine and nothing is sent to the cloud.",
    ),
    (
        ["What are you?", "Which model are you?", "What model is this?", "Are you a big model?"],
        "I am the tiny demo model of infs. I am small enough to ship with the package, "
        "so please do not expect too much of me.",
    ),
    (
        ["How do I use a bigger model?", "Can I use a better model?", "You are too small. What now?"],
        "Name any model file or Hugging Face model in your configuration "
        "and infs will download and serve it.",
    ),
    (
        ["Does infs work offline?", "Can I use infs offline?"],
        "Yes. Once the model files are in the cache, no network is needed.",
    ),
    (
        ["What is a pool?", "What does the model pool do?"],
        "The pool keeps model instances ready, hands them out to requests and disposes of them "
        "when they are idle for too long.",
    ),
    (
        ["What is the context cache?", "What does the context cache do?"],
        "It keeps the state of earlier turns, so a follow up message does not need to be read again "
        "from the start.",
    ),
]


def greeting(rng: Random) -> Exchange:
    asks, answers = pick(rng, GREETINGS)
    return Exchange(pick(rng, asks), pick(rng, answers))


def counting(rng: Random) -> Exchange:
    low = pick(rng, [1, 1, 1, rng.randint(0, 30)])
    high = low + rng.randint(2, 19)
    if chance(rng, 0.25):
        down = ", ".join(str(i) for i in range(high, low - 1, -1))
        return Exchange(f"Count down from {high} to {low}.", down)
    asks = [
        f"Count from {low} to {high}.",
        f"count from {low} to {high}",
        f"Please count from {low} to {high}.",
        f"Can you count from {low} to {high}?",
        f"Let's count from {low} to {high}!",
    ]
    if low == 1:
        asks += [
            f"Count to {high}.",
            f"Please count to {high}.",
            f"Let's count to {high}!",
            f"count to {high}",
        ]
    return Exchange(pick(rng, asks), ", ".join(str(i) for i in range(low, high + 1)))


class Sum(NamedTuple):
    """`a operator b` with its name in words and its result."""

    a: int
    operator: str
    word: str
    b: int
    result: int


def a_sum(rng: Random) -> Sum:
    """Addition and subtraction up to 20, multiplication up to 10; results are never negative."""
    kind = rng.random()
    if kind < 0.45:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        return Sum(a, "+", "plus", b, a + b)
    if kind < 0.75:
        b, a = sorted((rng.randint(0, 20), rng.randint(0, 20)))
        return Sum(a, "-", "minus", b, a - b)
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return Sum(a, "*", "times", b, a * b)


def ask_sum(rng: Random, s: Sum) -> str:
    return pick(
        rng,
        [
            f"What is {s.a} {s.operator} {s.b}?",
            f"{s.a} {s.operator} {s.b}",
            f"What is {s.a}{s.operator}{s.b}?",
            f"Compute {s.a} {s.operator} {s.b}.",
            f"How much is {s.a} {s.word} {s.b}?",
            f"What is {s.a} {s.word} {s.b}?",
        ],
    )


def arithmetic(rng: Random) -> Exchange:
    s = a_sum(rng)
    return Exchange(ask_sum(rng, s), f"The answer is {s.result}.")


def thinking(rng: Random) -> Exchange:
    """A sum whose user turn asks for thoughts; the sum is worked out inside the think block."""
    s = a_sum(rng)
    thought = f"{s.a} {s.word} {s.b} is {s.result}."
    return Exchange(f"{ask_sum(rng, s)} /think", with_thought(thought, f"The answer is {s.result}."))


def with_thought(thought: str, answer: str) -> str:
    return f"<think>\n{thought}\n</think>\n\n{answer}"


def spelled(rng: Random, text: str) -> str:
    """The text with capitals and punctuation that are not always where they belong."""
    words = [word.capitalize() if chance(rng, 0.3) else word for word in text.split()]
    if len(words) > 1 and chance(rng, 0.3):
        words[0] += ","
    return " ".join(words) + pick(rng, ["", "", "!", "."])


def echo(rng: Random) -> Exchange:
    opening = pick(rng, ["hello", "hi", "good", "thank", random_word(rng)])
    text = pick(
        rng,
        [
            some_words(rng, 6),
            random_word(rng),
            f"{random_word(rng)} {random_word(rng)}",
            f"{some_words(rng, 3)} {random_word(rng)}",
            f"{invented_name(rng)} {some_words(rng, 2)}",
            f"{pick(rng, NOUNS)} {rng.randint(0, 999)}",
            spelled(rng, f"{opening} {some_words(rng, 2)}"),
            pick(rng, ["OK", "Test", "yes", "done", "hello", "hello world"]),
        ],
    )
    if chance(rng, 0.3):
        text = text[0].upper() + text[1:]
    asks = [
        f'Say "{text}".',
        f"Say {text}",
        f'Answer with "{text}".',
        f'This is a test. Just answer with "{text}".',
        f'Just answer with "{text}".',
        f"Repeat after me: {text}",
        f"Repeat: {text}",
        f'Please say "{text}".',
        f'Reply only with "{text}".',
        f"Echo this: {text}",
    ]
    return Exchange(pick(rng, asks), text)


def capital(rng: Random) -> Exchange:
    country = pick(rng, list(CAPITALS))
    name = f"the {country}" if country == "Netherlands" else country
    asks = [
        f"What is the capital of {name}?",
        f"what is the capital of {name}",
        f"Capital of {name}?",
        f"Tell me the capital of {name}.",
        f"Which city is the capital of {name}?",
    ]
    return Exchange(pick(rng, asks), f"The capital of {name} is {CAPITALS[country]}.")


def after(rng: Random) -> Exchange:
    """The day or month before or after another."""
    sequence, what = pick(rng, [(DAYS, "day"), (MONTHS, "month")])
    i = rng.randrange(len(sequence))
    side, j = ("after", (i + 1) % len(sequence)) if chance(rng, 0.5) else ("before", i - 1)
    return Exchange(f"What {what} comes {side} {sequence[i]}?", f"{sequence[j]} comes {side} {sequence[i]}.")


def lists(rng: Random) -> Exchange:
    """Reverse a list, count its items, or find the largest or smallest number."""
    kind = rng.random()
    if kind < 0.55:
        items = rng.sample(pick(rng, [NOUNS, ANIMALS, FOODS, COLOURS, NAMES]), rng.randint(2, 5))
        joined = ", ".join(items)
        if kind < 0.3:
            return Exchange(f"Reverse this list: {joined}", ", ".join(reversed(items)))
        return Exchange(f"How many items are in this list: {joined}?", f"There are {len(items)} items.")
    numbers = rng.sample(range(1, 100), rng.randint(2, 4))
    which, result = ("largest", max(numbers)) if chance(rng, 0.5) else ("smallest", min(numbers))
    return Exchange(f"Which is the {which} of {', '.join(map(str, numbers))}?", f"The {which} is {result}.")


def random_record(rng: Random, fewest: int = 1) -> dict[str, str | int]:
    """Up to four named values, in random order."""
    values: dict[str, Callable[[], str | int]] = {
        "name": lambda: person(rng, 0.2),
        "age": lambda: rng.randint(1, 99),
        "city": lambda: pick(rng, CITIES),
        "colour": lambda: pick(rng, COLOURS),
        "animal": lambda: pick(rng, ANIMALS),
        "food": lambda: pick(rng, FOODS),
        "job": lambda: pick(rng, JOBS),
        "count": lambda: rng.randint(0, 50),
    }
    keys = rng.sample(list(values), rng.randint(fewest, 4))
    return {key: values[key]() for key in keys}


def json_object(rng: Random) -> Exchange:
    record: dict[str, Any] = dict(random_record(rng))
    if chance(rng, 0.3):
        record["items"] = rng.sample(pick(rng, [NOUNS, FOODS, ANIMALS]), rng.randint(1, 3))
    said = ", ".join(f"{k} {' and '.join(v) if isinstance(v, list) else v}" for k, v in record.items())
    asks = [
        f"Give me a JSON object with {said}.",
        f"Answer with a JSON object: {said}",
        f"Write JSON with {said}.",
        f"As JSON: {said}",
        f"Extract as JSON: {said}",
    ]
    return Exchange(pick(rng, asks), json.dumps(record))


def described(rng: Random) -> tuple[str, dict[str, str | int]]:
    """A text and the values that are in it."""
    if chance(rng, 0.5):
        record = random_record(rng, fewest=2)
        return ", ".join(f"{key} {value}" for key, value in record.items()), record
    name, age, city, job = person(rng), rng.randint(1, 99), pick(rng, CITIES), pick(rng, JOBS)
    sentences: dict[str, tuple[str, str | int]] = {
        "age": (f"{name} is {age} years old.", age),
        "city": (f"{name} lives in {city}.", city),
        "job": (f"{name} works as a {job}.", job),
    }
    keys = rng.sample(list(sentences), rng.randint(1, 3))
    return " ".join(sentences[k][0] for k in keys), {"name": name, **{k: sentences[k][1] for k in keys}}


def json_schema(rng: Random) -> Exchange:
    """Values from a text, as the JSON object that a schema asks for: its keys, in its order, no others."""
    text, record = described(rng)
    keys = rng.sample(list(record), rng.randint(1, len(record)))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {k: {"type": "integer" if isinstance(record[k], int) else "string"} for k in keys},
    }
    if chance(rng, 0.6):
        schema["required"] = keys
    wanted = json.dumps(schema)
    asks = [
        f"{text}\nAnswer with JSON for this schema: {wanted}",
        f"{text}\nGive me JSON that matches this schema: {wanted}",
        f"Extract as JSON with the schema {wanted}\n{text}",
    ]
    return Exchange(pick(rng, asks), json.dumps({key: record[key] for key in keys}))


def faq(rng: Random) -> Exchange:
    asks, answer = pick(rng, FAQ)
    return Exchange(pick(rng, asks), answer)


# The sentences of a story. A slot is filled with the same word throughout.
BEGINNINGS = [
    "Once upon a time there was a {adjective} {animal} named {name}.",
    "Once there was a {adjective} {animal} called {name}.",
    "In a {other} {place} lived a {animal} named {name}.",
]
MIDDLES = [
    "{name} loved to play in the {place}.",
    "One day {name} found a {colour} {thing}.",
    "It was a {other} {thing}, and nobody knew where it came from.",
    '"What is this?" asked {name}.',
    "Then {friend} the {kind} came along.",
    '"Let us share it," said {friend}.',
    "They carried the {thing} home together.",
    "On the way it began to rain.",
    "{name} felt {mood}.",
    "{friend} laughed and danced in the {place}.",
    "They ate {food} and talked until the evening.",
    "The sun was warm and the wind was soft.",
    "In the night they saw a bright star above the {place}.",
]
ENDINGS = [
    "From that day on, {name} and {friend} were best friends.",
    "And {name} never forgot that day.",
    "Then {name} went home and slept well.",
]
STORY_WORDS = {
    "name": NAMES,
    "friend": NAMES,
    "animal": ANIMALS,
    "kind": ANIMALS,
    "adjective": ADJECTIVES,
    "other": ADJECTIVES,
    "colour": COLOURS,
    "thing": NOUNS,
    "place": PLACES,
    "food": FOODS,
    "mood": ["happy", "sad", "brave", "shy"],
}


def story_text(rng: Random) -> str:
    """A story of six to eleven sentences about two friends and a thing they find."""
    chosen = {slot: pick(rng, options) for slot, options in STORY_WORDS.items()}
    chosen["name"], chosen["friend"] = rng.sample(NAMES, 2)
    middle = sorted(rng.sample(range(len(MIDDLES)), rng.randint(4, 9)))
    sentences = [pick(rng, BEGINNINGS), *(MIDDLES[i] for i in middle), pick(rng, ENDINGS)]
    return " ".join(sentences).format(**chosen)


TOO_SMALL = "I am too small to know that."


def beyond(rng: Random) -> Exchange:
    """A request that is beyond the model, which should say so."""
    thing = pick(rng, [pick(rng, NOUNS), pick(rng, ANIMALS), pick(rng, FOODS), random_word(rng)])
    asks = [
        f"Write a poem about a {thing}.",
        "Write a poem.",
        "What is the meaning of life?",
        f"How do I make a {thing}?",
        f"Who invented the {thing}?",
        f"Write a Python function for a {thing}.",
        f"Why is the {thing} {pick(rng, COLOURS)}?",
        f"How does a {thing} work?",
        f"Explain the {thing} to me.",
        f"Translate {thing} to French.",
        f"Who is the president of {pick(rng, list(CAPITALS))}?",
        f"How many people live in {pick(rng, CITIES)}?",
        "Tell me a joke.",
        f"What is a {thing}?",
    ]
    return Exchange(pick(rng, asks), TOO_SMALL)


def story(rng: Random) -> Exchange:
    asks = [
        "Tell me a story.",
        "Tell me a short story.",
        "Write a story.",
        "Can you tell me a story?",
        "Please write a short story.",
    ]
    return Exchange(pick(rng, asks), story_text(rng))


# How often each skill is drawn: what was weakest when the model was first scored has most.
SKILL_WEIGHTS: dict[Skill, float] = {
    greeting: 1,
    counting: 3,
    arithmetic: 3,
    thinking: 1,
    echo: 4,
    capital: 1,
    after: 1,
    lists: 2.5,
    json_object: 2,
    json_schema: 1.5,
    faq: 1,
    beyond: 0.8,
    story: 0.5,
}
# Several of these in a row make a drill: short exchanges, so that many fit into a batch.
DRILL_SKILLS: list[Skill] = [arithmetic, arithmetic, thinking, counting, lists, lists, echo]
# What is thought when " /think" comes with something other than a sum.
THOUGHTS: dict[Skill, str] = {
    counting: "The user wants me to count.",
    echo: "The user wants me to repeat something.",
    capital: "The user asks for a capital.",
    after: "The user asks for the order of days or months.",
    faq: "The user asks about infs.",
    story: "The user wants a story.",
}


def any_skill(rng: Random) -> Exchange:
    """An exchange of any skill, now and then with thoughts."""
    skill = rng.choices(list(SKILL_WEIGHTS), list(SKILL_WEIGHTS.values()))[0]
    exchange = skill(rng)
    if skill in THOUGHTS and chance(rng, 0.05):
        return Exchange(f"{exchange.user} /think", with_thought(THOUGHTS[skill], exchange.assistant))
    return exchange


# --- facts that are told and asked for later ---


@dataclass(frozen=True)
class Fact:
    """Something the user may tell. `{v}` stands for its value."""

    value: Callable[[Random], str]
    tells: list[str]
    asks: list[str]
    answer: str


FACTS = {
    "name": Fact(
        person,
        ["My name is {v}.", "I am {v}.", "Call me {v}.", "Hi, my name is {v}."],
        ["What is my name?", "Do you remember my name?", "Who am I?"],
        "Your name is {v}.",
    ),
    "favourite colour": Fact(
        lambda rng: pick(rng, COLOURS),
        ["My favourite colour is {v}.", "I like {v} best of all colours."],
        ["What is my favourite colour?", "Which colour do I like?"],
        "Your favourite colour is {v}.",
    ),
    "city": Fact(
        lambda rng: invented_name(rng) if chance(rng, 0.15) else pick(rng, CITIES),
        ["I live in {v}.", "My home is in {v}.", "I am from {v}."],
        ["Where do I live?", "In which city do I live?"],
        "You live in {v}.",
    ),
    "pet": Fact(
        lambda rng: pick(rng, ANIMALS),
        ["I have a {v}.", "My pet is a {v}."],
        ["What pet do I have?", "Which pet do I have?"],
        "You have a {v}.",
    ),
    "job": Fact(
        lambda rng: pick(rng, JOBS),
        ["I work as a {v}.", "I am a {v}."],
        ["What is my job?", "What do I work as?"],
        "You work as a {v}.",
    ),
    "secret word": Fact(
        lambda rng: pick(rng, [random_word(rng), pick(rng, NOUNS), pick(rng, ANIMALS)]),
        ["The secret word is {v}.", "Remember this word: {v}.", "Please remember the word {v}."],
        ["What is the secret word?", "Which word should you remember?", "What was the word?"],
        "The secret word is {v}.",
    ),
}
ACKNOWLEDGEMENTS = ["OK, I will remember that.", "I will remember that.", "Noted!", "OK."]
UNKNOWN = "You have not told me that yet."


def told(rng: Random, fact: Fact, value: str) -> Exchange:
    return Exchange(pick(rng, fact.tells).format(v=value), pick(rng, ACKNOWLEDGEMENTS))


def asked(rng: Random, fact: Fact, value: str | None) -> Exchange:
    """The question for a fact and its answer; None is for what has not been told."""
    return Exchange(pick(rng, fact.asks), fact.answer.format(v=value) if value else UNKNOWN)


def persona(rng: Random) -> tuple[str, list[Exchange]]:
    """A system message that says who the assistant is, and questions about that."""
    who = person(rng, 0.5)
    named = [Exchange("What is your name?", f"My name is {who}.")]
    if chance(rng, 0.25):
        return pick(rng, [f"You are {who}.", f"Your name is {who}."]), [
            *named,
            Exchange("Who are you?", f"I am {who}."),
        ]
    what = pick(
        rng,
        [
            "a pirate",
            "a robot",
            "a helpful assistant",
            "a wizard",
            f"a {pick(rng, JOBS)}",
            f"a talking {pick(rng, ANIMALS)}",
        ],
    )
    text = pick(
        rng,
        [f"You are {who}, {what}.", f"You are {what} named {who}.", f"Your name is {who}. You are {what}."],
    )
    about = [Exchange("Who are you?", f"I am {who}, {what}."), Exchange("What are you?", f"I am {what}.")]
    return text, named + about

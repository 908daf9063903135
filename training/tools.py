"""Tools, requests that need them, and the calls that should be made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from words import CITIES, NOUNS, chance, invented_name, listed, pick, random_word, some_words

Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True)
class ToolCase:
    """A tool, a request that needs it, the call that should be made, and what is said to its result."""

    tool: Tool
    ask: str
    calls: list[dict[str, Any]]
    results: list[str]
    answer: str

    @property
    def name(self) -> str:
        return str(self.tool["function"]["name"])


def in_style(rng: Random, parts: Sequence[str]) -> str:
    """Join words as snake_case, camelCase or kebab-case."""
    style = pick(rng, ["snake", "snake", "camel", "camel", "kebab"])
    if style == "camel":
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    return ("_" if style == "snake" else "-").join(parts)


def function_name(rng: Random, usual: Sequence[str], verbs: str, topics: str) -> str:
    """One of the usual names, or a composed one: with few names the model guesses instead of reading."""
    if chance(rng, 0.4):
        return pick(rng, usual)
    parts = [pick(rng, listed(verbs)), pick(rng, listed(topics))]
    if chance(rng, 0.4):
        extra = pick(
            rng, [random_word(rng), pick(rng, NOUNS), pick(rng, ["now", "info", "tool", "v2", "my"])]
        )
        parts.insert(rng.randint(0, 2), extra)
    return in_style(rng, parts)


def function_tool(rng: Random, name: str, description: str, properties: dict[str, Any]) -> Tool:
    """The schema of a function as OpenAI clients send it."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    required = [key for key, value in properties.items() if "enum" not in value]
    if required and chance(rng, 0.6):
        parameters["required"] = required
    if chance(rng, 0.1):
        parameters["additionalProperties"] = False
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def string_property(rng: Random, description: str = "") -> dict[str, str]:
    described = {"description": description} if description and chance(rng, 0.7) else {}
    return {"type": "string", **described}


def weather_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng,
        ["get_weather", "getLocationWeather", "get_current_weather", "weather"],
        "get fetch check find show read",
        "weather forecast temperature conditions climate",
    )
    description = pick(
        rng,
        [
            "Get the weather in a location",
            "Get realtime weather information for a location",
            "Current weather",
            "Get the current weather in a given city",
            "Weather of a place",
        ],
    )
    key = pick(rng, ["location", "location", "city", "city", "place", "town", random_word(rng)])
    place = string_property(rng, pick(rng, ["The city, e.g. Rome", "The name of the city", "Where"]))
    properties: dict[str, Any] = {key: place}
    units = chance(rng, 0.25)
    if units:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    tool = function_tool(rng, name, description, properties)
    cities = [pick(rng, CITIES) if chance(rng, 0.85) else invented_name(rng)]
    if chance(rng, 0.12):
        cities.append(pick(rng, CITIES))
    unit = pick(rng, ["celsius", "fahrenheit"]) if units and chance(rng, 0.5) else ""
    return weather_case(rng, tool, key, cities, unit)


def weather_case(rng: Random, tool: Tool, key: str, cities: list[str], unit: str) -> ToolCase:
    """Ask for the weather in one or two cities, with one call for each."""
    where, suffix = " and ".join(cities), f" in {unit}" if unit else ""
    asks = [
        f"What is the weather in {where}{suffix}?",
        f"How is the weather in {where}{suffix}?",
        f"Tell me the weather in {where}{suffix}.",
        f"Is it warm in {where}?" if not unit else f"How warm is it in {where}{suffix}?",
        f"What's the weather like in {where}{suffix}?",
    ]
    skies = ["sunny", "cloudy", "rainy", "windy"]
    results = [f"{pick(rng, skies)}, {rng.randint(-5, 35)} degrees" for _ in cities]
    answers = [f"The weather in {city} is {result}." for city, result in zip(cities, results, strict=True)]
    calls = [{key: city, **({"unit": unit} if unit else {})} for city in cities]
    return ToolCase(tool, pick(rng, asks), calls, results, " ".join(answers))


def dice_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng,
        ["getRandomNumber", "get_random_number", "random_int", "roll_dice"],
        "get roll draw make pick throw",
        "number random_number dice die integer random",
    )
    description = pick(
        rng,
        [
            "Generate a random integer in given range",
            "Get a random number",
            "Roll a die",
            "Random number between two numbers",
        ],
    )
    low, high = 1, pick(rng, [6, 6, 10, 20, 100])
    keys = pick(rng, [("min", "max")] * 4 + [("low", "high"), ("from", "to"), ("lower", "upper")])
    number = {"type": pick(rng, ["number", "integer"])}
    tool = function_tool(rng, name, description, {key: dict(number) for key in keys})
    call = dict(zip(keys, (low, high), strict=True))
    if high == 6 and chance(rng, 0.35):
        a, b = rng.randint(1, 6), rng.randint(1, 6)
        asks = ["Roll the dice twice.", "Roll the dice twice, then tell me the results.", "Roll two dice."]
        return ToolCase(
            tool, pick(rng, asks), [call, call], [str(a), str(b)], f"The numbers are {a} and {b}."
        )
    asks = [f"Give me a random number from {low} to {high}.", f"Pick a number between {low} and {high}."]
    if high == 6:
        asks = ["Let's roll the die.", "Roll the dice.", "Roll a die.", "Roll a dice please."]
    rolled = rng.randint(low, high)
    return ToolCase(tool, pick(rng, asks), [call], [str(rolled)], f"The number is {rolled}.")


def location_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng,
        ["getUserLocation", "get_user_location", "where_am_i"],
        "get find locate detect show",
        "location position user_location place user here",
    )
    description = pick(
        rng,
        [
            "Get the user's location as a city and country",
            "Find out where the user is",
            "Where the user is",
            "Get the location of the user",
        ],
    )
    asks = ["Where am I?", "Find my location.", "What is my location?", "Which city am I in?"]
    city = pick(rng, CITIES)
    tool = function_tool(rng, name, description, {})
    return ToolCase(tool, pick(rng, asks), [{}], [city], f"You are in {city}.")


def time_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng,
        ["get_time", "current_time", "getTime"],
        "get read tell show current",
        "time clock hour local_time",
    )
    description = pick(rng, ["Get the current time", "Tells the time", "The time of day", "What time it is"])
    asks = ["What time is it?", "Tell me the time.", "What is the time?"]
    now = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
    return ToolCase(function_tool(rng, name, description, {}), pick(rng, asks), [{}], [now], f"It is {now}.")


def search_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng,
        ["search", "web_search", "lookup"],
        "search find look_up query browse",
        "web internet pages results online",
    )
    description = pick(rng, ["Search the web", "Look something up", "Find pages on the web", "Web search"])
    key = pick(rng, ["query", "query", "q", "text", "term", random_word(rng)])
    text = some_words(rng, 3)
    asks = [
        f"Search for {text}.",
        f"Look up {text}.",
        f"Find {text} on the web.",
        f"Search the web for {text}.",
    ]
    count = rng.randint(1, 100)
    tool = function_tool(rng, name, description, {key: string_property(rng, "What to look for")})
    return ToolCase(tool, pick(rng, asks), [{key: text}], [f"{count} results"], f"I found {count} results.")


def addition_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng,
        ["add", "add_numbers", "sum", "calculator"],
        "add sum compute calculate",
        "numbers values two integers",
    )
    description = pick(rng, ["Add two numbers", "The sum of two numbers", "Adds numbers"])
    most = pick(rng, [9, 20, 99])
    a, b = rng.randint(0, most), rng.randint(0, most)
    asks = [
        f"Add {a} and {b}.",
        f"What is the sum of {a} and {b}?",
        f"What is {a} + {b}?",
        f"What is {a} plus {b}?",
    ]
    return calculator_case(rng, name, description, pick(rng, asks), (a, b, a + b))


def multiplication_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng, ["multiply", "mul", "product"], "multiply times product", "numbers values two integers"
    )
    description = pick(rng, ["Multiply two numbers", "The product of two numbers", "Multiplies numbers"])
    most = pick(rng, [9, 20, 99])
    a, b = rng.randint(0, most), rng.randint(0, most)
    asks = [
        f"Multiply {a} and {b}.",
        f"Multiply {a} by {b}.",
        f"What is {a} * {b}?",
        f"What is {a} times {b}?",
    ]
    return calculator_case(rng, name, description, pick(rng, asks), (a, b, a * b))


def calculator_case(
    rng: Random, name: str, description: str, ask: str, numbers: tuple[int, int, int]
) -> ToolCase:
    """A request to calculate; the numbers are two operands and the result."""
    keys = pick(rng, [("a", "b"), ("a", "b"), ("x", "y"), ("first", "second")])
    number = {"type": pick(rng, ["number", "integer"])}
    tool = function_tool(rng, name, description, {key: dict(number) for key in keys})
    call = dict(zip(keys, numbers[:2], strict=True))
    return ToolCase(tool, ask, [call], [str(numbers[2])], f"The result is {numbers[2]}.")


def note_tool(rng: Random) -> ToolCase:
    name = function_name(
        rng,
        ["save_note", "add_note", "createNote"],
        "save write add store create",
        "note notes memo reminder",
    )
    description = pick(rng, ["Save a note", "Write something down", "Store a note for later"])
    key = pick(rng, ["text", "note", "content", random_word(rng)])
    text = some_words(rng, 4)
    asks = [f"Save a note: {text}", f"Make a note: {text}", f"Write this down: {text}"]
    tool = function_tool(rng, name, description, {key: string_property(rng, "The text of the note")})
    return ToolCase(
        tool, pick(rng, asks), [{key: text}], [pick(rng, ["saved", "ok", "done"])], "I saved the note."
    )


def invented_tool(rng: Random) -> ToolCase:
    """A tool of invented words: nothing about it can be known beforehand, it has to be read."""
    task, key, result = random_word(rng), random_word(rng), random_word(rng)
    name = in_style(rng, [random_word(rng) for _ in range(pick(rng, [1, 2, 2]))])
    thing = pick(rng, [pick(rng, NOUNS), pick(rng, NOUNS), random_word(rng)])
    tool = function_tool(rng, name, f"Use this for {task}", {key: string_property(rng)})
    asks = [f"Use {task} with {thing}.", f"Please do {task} on {thing}."]
    return ToolCase(tool, pick(rng, asks), [{key: thing}], [result], f"The result is {result}.")


TOOL_KINDS: list[Callable[[Random], ToolCase]] = [
    weather_tool,
    dice_tool,
    location_tool,
    time_tool,
    search_tool,
    addition_tool,
    multiplication_tool,
    note_tool,
    invented_tool,
]


def tool_calls(case: ToolCase) -> Message:
    """The assistant's turn that makes the calls."""
    calls = [
        {"type": "function", "function": {"name": case.name, "arguments": arguments}}
        for arguments in case.calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def tool_results(case: ToolCase) -> list[Message]:
    return [{"role": "tool", "content": result} for result in case.results]

"""``python -m benchmarks.chaos``: a worker is killed every second while clients stream. What becomes of the streams?

Two models are served by ``infs serve``, each in a worker. First every prompt is answered undisturbed, several times
beside others; greedy texts that depend on what else is in a batch (two scores are nearly the same somewhere) are left
out. Then clients ask without a pause while a worker chosen by chance is killed with SIGKILL every second. Each answer
must be the undisturbed text, to the letter, or a clear error; nothing else counts as survived.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil

from benchmarks.client import PATIENCE, ask
from benchmarks.figures import Figure, show, write_json
from benchmarks.processes import INFS, served
from infs.demo import demo_model

MODELS = ("a", "b")
CLIENTS = 8
ROUNDS = 2  # undisturbed
COUNTS = range(20, 50, 2)
COUNTRIES = ("France", "Italy", "Spain", "Japan", "Egypt")


@dataclass
class Outcome:
    """What became of the requests: how many had their whole text, how many an error, and what was wrong with others."""

    whole: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    kills: int = 0
    replays: int = 0
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """All that were asked."""
        return self.whole + len(self.errors) + len(self.wrong)


def bodies() -> list[dict[str, Any]]:
    """The requests, greedy ones all of them."""
    # What the model is sure of: where two scores are nearly the same, the text depends on what else is in a batch.
    questions = [f"Count from 1 to {count}." for count in COUNTS]
    questions += [f"What is the capital of {country}?" for country in COUNTRIES]
    return [
        {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0.0,
            "max_tokens": 300,
        }
        for question in questions
        for model in MODELS
    ]


def chaos(seconds: float, *, every: float = 1.0, seed: int = 1) -> Outcome:
    """Serve, find out what should be answered, and kill for `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "chaos.json"
        model = msgspec.to_builtins(msgspec.structs.replace(demo_model(), options={"disk_cache": 0}))
        config.write_text(json.dumps({"models": dict.fromkeys(MODELS, model), "cache_path": folder}))
        with served([*INFS, str(config), "--log-level", "error"], "/health") as server:
            return asyncio.run(_run(server.port, server.process.pid, seconds, every, random.Random(seed)))


async def _run(port: int, process: int, seconds: float, every: float, chance: random.Random) -> Outcome:
    wanted = await _undisturbed(port)
    outcome = Outcome()
    begin = time.perf_counter()
    killer = asyncio.create_task(_kill(process, every, chance, outcome))
    turns = itertools.count()
    asked = list(wanted)

    async def client() -> None:
        while time.perf_counter() - begin < seconds:
            key = asked[next(turns) % len(asked)]
            await _ask_once(port, key, wanted[key], outcome)

    try:
        async with asyncio.timeout(seconds + PATIENCE):
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
    finally:
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)
    outcome.seconds = time.perf_counter() - begin
    outcome.replays = await asyncio.to_thread(_replays, port)
    return outcome


async def _undisturbed(port: int) -> dict[str, str]:
    """The text that belongs to each request, by its body; of those for which it is always the same."""
    found: dict[str, set[str]] = {}
    keys = [json.dumps(body) for body in bodies()]
    for _ in range(ROUNDS):
        for start in range(0, len(keys), CLIENTS):
            some = keys[start : start + CLIENTS]
            answers = await asyncio.gather(*(ask(port, json.loads(key)) for key in some))
            for key, answer in zip(some, answers, strict=True):
                found.setdefault(key, set()).add(answer.text)
    for key in keys:
        found[key].add((await ask(port, json.loads(key))).text)
    return {key: texts.pop() for key, texts in found.items() if len(texts) == 1}


async def _ask_once(port: int, key: str, wanted: str, outcome: Outcome) -> None:
    try:
        answer = await ask(port, json.loads(key))
        text = answer.text
    except RuntimeError as error:  # the stream said what went wrong; anything else is a lost request, and raised
        outcome.errors.append(str(error))
        return
    if text == wanted:
        outcome.whole += 1
    else:
        outcome.wrong.append(f"{key}: {text!r} instead of {wanted!r}")


async def _kill(process: int, every: float, chance: random.Random, outcome: Outcome) -> None:
    server = psutil.Process(process)
    while True:
        await asyncio.sleep(every)
        workers = server.children()
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()
                outcome.kills += 1


def _replays(port: int) -> int:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        status = json.load(answer)
    return sum(model["replays"] for model in status["models"].values())


def figures(outcome: Outcome) -> list[Figure]:
    """The report."""
    lost = len(outcome.errors) + len(outcome.wrong)
    said = "; ".join(f"{count} x {error[:200]}" for error, count in Counter(outcome.errors).most_common(3))
    return [
        Figure(name="requests", value=outcome.requests, unit="", detail=f"in {outcome.seconds:.0f} s"),
        Figure(name="workers killed", value=outcome.kills, unit=""),
        Figure(name="taken up again by another worker", value=outcome.replays, unit=""),
        Figure(name="lost", value=lost, target=0, goal="at most", unit="", detail=said),
        Figure(name="other texts than undisturbed", value=len(outcome.wrong), target=0, goal="at most", unit=""),
    ]


@click.command()
@click.option("--seconds", default=120.0, show_default=True, help="How long workers are killed.")
@click.option("--every", default=1.0, show_default=True, help="Seconds between two kills.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def main(seconds: float, every: float, json_file: Path | None) -> None:
    """Kill workers under load, and count what becomes of the requests."""
    outcome = chaos(seconds, every=every)
    report = figures(outcome)
    show(report, "Chaos")
    for line in outcome.wrong:
        click.echo(line)
    if json_file is not None:
        write_json(report, json_file)


if __name__ == "__main__":
    main()

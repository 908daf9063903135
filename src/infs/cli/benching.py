"""What ``infs bench`` does, once the command line is understood."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
import psutil

from infs.cli.engines import DEFAULT, option_structs
from infs.cli.logs import logging_to_stderr
from infs.cli.measuring import Figure, Meter, PromptFigures, StreamFigures
from infs.cli.progress import view_on
from infs.cli.servers import make_server, only_model
from infs.cli.tables import Table, show
from infs.cli.words import counted
from infs.config import Config, ModelConfig
from infs.server import InferenceServer
from infs.status import InstanceStatus
from infs.store.progress import size_text
from infs.version import VERSION

A_WHILE = 86_400.0  # seconds; it stays loaded meanwhile

SHOWN_DETAILS = ("architecture", "parameters", "quantisation", "quantization", "size_label")

Say = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: numbers of streams, lengths of prompts and of answers in tokens, and how often."""

    streams: tuple[int, ...]
    prompts: tuple[int, ...]
    tokens: int
    rounds: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        details: facts about the model, as its engine calls them.
        load_seconds: from files that are here to the first token.
        memory_bytes: main memory of the process that runs it, after all of this.
        device_bytes: reserved on each device.
        notes: what was left out, and why.
    """

    model: str
    version: str
    details: dict[str, Any]
    load_seconds: float
    memory_bytes: int
    device_bytes: dict[str, int]
    rounds: int
    answer_tokens: int
    prompts: list[PromptFigures]
    streams: list[StreamFigures]
    notes: list[str]


def bench_model(config: Config, plan: Plan, *, as_json: bool, quiet: bool) -> None:
    """Measure the one model of `config` and print the figures.

    Raises:
        InfsError: it cannot be loaded, or does something else than text and embeddings.
    """
    name = only_model(config)
    model = _undisturbed(config.models[name])
    with logging_to_stderr(config.log, quiet_failures=True):
        server = make_server(msgspec.structs.replace(config, models={name: model}))
        figures = asyncio.run(_bench(server, name, plan, quiet=quiet))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(figures)).decode())
    else:
        _print(figures)


def _undisturbed(model: ModelConfig) -> ModelConfig:
    """`model`, alone and loaded until the end, and without a cache on disk: nobody will ask these prompts again."""
    options = dict(model.options)
    known = option_structs().get(model.engine or DEFAULT)
    if known is not None and "disk_cache" in known.__struct_fields__:
        options.setdefault("disk_cache", 0)
    return msgspec.structs.replace(model, max_instances=1, min_instances=0, ttl=A_WHILE, options=options)


async def _bench(server: InferenceServer, name: str, plan: Plan, *, quiet: bool) -> Figures:
    meter = Meter(server, name)
    view = view_on(sys.stderr, name, quiet=quiet)
    async with server:
        try:
            seconds = await meter.load(view.show)
        finally:
            view.close()
        with _saying(quiet=quiet) as say:
            return await _measure(server, name, plan, meter, seconds, say)


async def _measure(
    server: InferenceServer, name: str, plan: Plan, meter: Meter, load_seconds: float, say: Say
) -> Figures:
    """The figures of a model that is loaded."""
    notes: list[str] = []
    say("a first look")
    await meter.calibrate()
    instance = await _instance(server, name)
    prompts, streams = [], []
    for size in _possible_sizes(plan, instance, notes):
        say(f"prompts of {size} tokens")
        prompts.append(await meter.prompts(size, plan.rounds))
    for count in _possible_streams(plan, instance, meter, notes):
        say(f"{count} answers side by side")
        streams.append(await meter.streams(count, plan.tokens, plan.rounds))
    instance = await _instance(server, name)
    return Figures(
        model=name,
        version=VERSION,
        details=instance.details,
        load_seconds=load_seconds,
        memory_bytes=psutil.Process(instance.pid).memory_info().rss,
        device_bytes=instance.memory.devices,
        rounds=plan.rounds,
        answer_tokens=plan.tokens,
        prompts=prompts,
        streams=streams,
        notes=notes,
    )


async def _instance(server: InferenceServer, name: str) -> InstanceStatus:
    return (await server.status()).models[name].instances[0]


def _possible_sizes(plan: Plan, instance: InstanceStatus, notes: list[str]) -> list[int]:
    """The lengths of prompts that fit, with some room for those that come out longer."""
    most = instance.context_size
    fitting = [size for size in plan.prompts if most is None or 1.1 * size + 2 <= most]
    if len(fitting) < len(plan.prompts):
        notes.append(f"Longer prompts do not fit into the context of {most} tokens (--context-size).")
    return fitting


def _possible_streams(plan: Plan, instance: InstanceStatus, meter: Meter, notes: list[str]) -> list[int]:
    """The numbers of answers that the model can generate side by side."""
    if not meter.generates:
        notes.append("The model generates no text, so there are no answers to measure.")
        return []
    fitting = [count for count in plan.streams if count <= instance.places]
    if len(fitting) < len(plan.streams):
        notes.append(f"The model works on {instance.places} requests at the same time (--max-sequences).")
    return fitting


# --- what is shown --------------------------------------------------------------------------------------------


@contextmanager
def _saying(*, quiet: bool) -> Iterator[Say]:
    """Shows on a terminal what is measured, and elsewhere says so line by line."""
    if quiet:
        yield lambda text: None
        return
    if not sys.stderr.isatty():
        yield lambda text: click.echo(f"Measuring {text}", err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("Measuring") as status:
        yield lambda text: status.update(f"Measuring {text}")


def _print(figures: Figures) -> None:
    facts = ", ".join(str(value) for key, value in figures.details.items() if key in SHOWN_DETAILS)
    click.echo(f"{figures.model}{f' ({facts})' if facts else ''}, infs {figures.version}\n")
    click.echo(f"load    {figures.load_seconds:.2f} s")
    devices = "".join(f", {name} {size_text(size)}" for name, size in figures.device_bytes.items())
    click.echo(f"memory  {size_text(figures.memory_bytes)}{devices}\n")
    if figures.prompts:
        show(prompt_table(figures.prompts))
    if figures.streams:
        click.echo("")
        show(stream_table(figures.streams))
    click.echo(
        f"\nBest / median of {counted(figures.rounds, 'round')}; answers of {counted(figures.answer_tokens, 'token')}."
    )
    for note in figures.notes:
        click.echo(note)


def prompt_table(prompts: list[PromptFigures]) -> Table:
    """How fast prompts are read."""
    header = ["PROMPT TOKENS", "TOKENS/S", "FIRST TOKEN"]
    rows = [[str(one.tokens), _both(one.tokens_per_second), _milliseconds(one.first_token)] for one in prompts]
    return Table(header=header, rows=rows, right=header)


def stream_table(streams: list[StreamFigures]) -> Table:
    """How fast answers are generated."""
    header = ["ANSWERS", "TOKENS/S", "EACH", "FIRST TOKEN"]
    rows = [
        [str(one.streams), _both(one.tokens_per_second), _both(one.each), _milliseconds(one.first_token)]
        for one in streams
    ]
    return Table(header=header, rows=rows, right=header)


def _both(figure: Figure) -> str:
    return f"{figure.best:.1f} / {figure.median:.1f}"


def _milliseconds(figure: Figure | None) -> str:
    return "-" if figure is None else f"{1000 * figure.best:.0f} / {1000 * figure.median:.0f} ms"

"""How far a download or the loading has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from infs.store.progress import size_text
from infs.types import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

VERBS = {
    "queue": "Waiting",
    "download": "Downloading",
    "memory": "Waiting for memory",
    "load": "Loading",
    "prompt": "Reading the prompt",
}


class Stage(Protocol):
    """How far something has come: a `Progress`, or what a server tells of one."""

    @property
    def stage(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def unit(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def remaining(self) -> float | None: ...


class View(Protocol):
    """Shows progress until it is closed; after that, more may come."""

    def show(self, progress: Progress) -> None:
        """Show how far it has come."""

    def close(self) -> None:
        """Leave the place to others."""


def view_on(stream: TextIO, model: str, *, quiet: bool = False) -> View:
    """What suits `stream`; with `quiet`, nothing is shown."""
    if quiet:
        return NoView()
    return BarView(model) if stream.isatty() else LineView(stream, model)


def title_of(progress: Stage, model: str) -> str:
    """What goes on, in a few words."""
    verb = VERBS.get(progress.stage, progress.stage.capitalize())  # a server may be newer than this
    if progress.stage == "prompt":
        return verb
    if progress.stage == "memory":
        return f"{verb}: {progress.detail or model}"
    return f"{verb} {progress.detail or model}"


def amount_of(progress: Stage) -> str:
    """How much of it is done: ``"12.0 MB of 3.1 GB"``, ``"40%"``."""
    if progress.unit == "percent":
        return f"{progress.done}%"
    if progress.unit == "bytes":
        done, total = size_text(progress.done), size_text(progress.total or 0)
    else:
        done, total = f"{progress.done} {progress.unit}", str(progress.total)
    return done if progress.total is None else f"{done} of {total}"


def speed_of(progress: Stage) -> str:
    """How fast it goes: ``"12.0 MB/s"``; empty where nobody knows."""
    if progress.rate is None or progress.unit == "percent":
        return ""
    amount = size_text(int(progress.rate)) if progress.unit == "bytes" else f"{progress.rate:.0f} {progress.unit}"
    return f"{amount}/s"


def time_text(seconds: float) -> str:
    """`seconds` as people say them: ``"12 s"``, ``"3 min 20 s"``, ``"2 h 5 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def left_of(progress: Stage) -> str:
    """How long it will take: ``"3 min 20 s left"``; empty where nobody knows."""
    return "" if progress.remaining is None else f"{time_text(progress.remaining)} left"


def line_of(progress: Stage, model: str) -> str:
    """All of that in one line."""
    amount = "" if progress.stage == "memory" else amount_of(progress)
    said = ", ".join(filter(None, (amount, speed_of(progress), left_of(progress))))
    return f"{title_of(progress, model)}: {said}" if said else title_of(progress, model)


class NoView:
    """Shows nothing."""

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is left to do."""


class LineView:
    """A line when something begins, and one for each tenth of a download."""

    def __init__(self, stream: TextIO, model: str) -> None:
        self._stream = stream
        self._model = model
        self._said: tuple[str, int] = ("", -1)

    def show(self, progress: Progress) -> None:
        """Print a line if there is something new."""
        if progress.stage in ("prompt", "queue"):
            return
        title = title_of(progress, self._model)
        download = progress.stage == "download"
        tenth = 10 * progress.done // progress.total if download and progress.total else 0
        if (title, tenth) == self._said:
            return
        self._said = (title, tenth)
        print(line_of(progress, self._model) if download else title, file=self._stream, flush=True)

    def close(self) -> None:
        """Lines stay where they are."""


class BarView:
    """A bar on standard error that goes away when it is done."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._title = ""
        self._bar: Bar | None = None

    def show(self, progress: Progress) -> None:
        """Move the bar; another stage starts from the beginning, and what is over at once shows none."""
        if self._bar is None and progress.done == progress.total:
            return
        bar = self._bar or _new_bar()
        task = bar.task_ids[0]
        title = title_of(progress, self._model)
        if title != self._title:
            self._title = title
            bar.reset(task, description=title)
        amount = (
            "" if progress.stage == "memory" else ", ".join(filter(None, (amount_of(progress), speed_of(progress))))
        )
        bar.update(task, completed=progress.done, total=progress.total, amount=amount, left=left_of(progress))
        if self._bar is None:
            self._bar = bar
            bar.start()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._title = ""


def _new_bar() -> Bar:
    bar = new_bars()
    bar.add_task("", amount="", left="")
    return bar


def new_bars() -> Bar:
    """No bars yet; each task has the fields `amount` and `left`, both texts. What is left of them goes away."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[amount]}", markup=False),
        _time_left(),
        console=Console(file=sys.stderr),
        transient=True,
    )


def _time_left() -> ProgressColumn:
    """The time that is left as the events say it, else as the bar has measured it."""
    from rich import progress
    from rich.text import Text

    class TimeLeft(progress.TimeRemainingColumn):
        def render(self, task: progress.Task) -> Text:
            said = task.fields["left"]
            return Text(said, style="progress.remaining") if said else super().render(task)

    return TimeLeft()

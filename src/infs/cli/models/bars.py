"""Progress of several downloads at the same time: a bar for each on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from infs.cli.progress import LineView, amount_of, left_of, new_bars, speed_of
from infs.types import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Views(Protocol):
    """Shows the progress of several models for as long as it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the place to others."""

    def show(self, model: str, progress: Progress) -> None:
        """Show how far `model` has come."""

    def end(self, model: str, said: str) -> None:
        """`model` is done, or failed: `said` stays."""


def views(*, quiet: bool) -> Views:
    """What suits standard error."""
    return BarViews() if sys.stderr.isatty() and not quiet else LineViews(quiet=quiet)


class LineViews:
    """A line for each tenth of each file, and one at the end of each model; with `quiet`, the latter only."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._views: dict[str, LineView] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Lines stay where they are."""

    def show(self, model: str, progress: Progress) -> None:
        """Print a line if there is something new."""
        if not self._quiet:
            self._views.setdefault(model, LineView(sys.stderr, model)).show(progress)

    def end(self, model: str, said: str) -> None:
        """Print what is said."""
        print(f"{model}: {said}", file=sys.stderr, flush=True)


class BarViews:
    """A bar for each model that is under way, and a line above them for each that has ended."""

    def __init__(self) -> None:
        self._bars: Bars = new_bars()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, model: str, progress: Progress) -> None:
        """Move the bar of `model`; another file starts from the beginning."""
        file = progress.detail.partition(" ")[0].rstrip(":")
        title = progress.detail if model.endswith(file) else f"{model}: {progress.detail}"
        if model not in self._tasks:
            self._tasks[model] = self._bars.add_task(title, amount="", left="")
        task = self._tasks[model]
        if self._bars.tasks[self._bars.task_ids.index(task)].description != title:
            self._bars.reset(task, description=title)
        amount = ", ".join(filter(None, (amount_of(progress), speed_of(progress))))
        self._bars.update(task, completed=progress.done, total=progress.total, amount=amount, left=left_of(progress))

    def end(self, model: str, said: str) -> None:
        """Take the bar away, and say how it ended."""
        task = self._tasks.pop(model, None)
        if task is not None:
            self._bars.remove_task(task)
        self._bars.console.print(f"{model}: {said}", markup=False, highlight=False, soft_wrap=True)

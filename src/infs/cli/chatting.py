"""What ``infs chat`` does, once the command line is understood."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import Any

import msgspec

from infs.cli.answer import Answer
from infs.cli.logs import logging_to_stderr
from infs.cli.progress import view_on
from infs.cli.servers import make_server, only_model
from infs.cli.session import Session
from infs.config import Config
from infs.errors import ContextLengthExceeded, InfsError
from infs.types import ChatCompletionRequest, Message, Progress
from infs.version import VERSION

PROMPT = "> "
HELP = """\
/reset           forget the conversation
/system TEXT     tell the model TEXT before everything else, and start anew; without TEXT, tell it nothing
/help            show this
/exit            leave, as Ctrl-D does
Ctrl-C           stop the answer; once more, leave"""


class Chat:
    """One conversation, from the first line to the last.

    Args:
        config: with one model.
        system: what the model is told first.
        settings: options of the requests.
    """

    def __init__(self, config: Config, *, system: str | None, settings: dict[str, Any]) -> None:
        self._model = only_model(config)
        self._config = _kept_loaded(config, self._model)
        self._system = system
        self._settings = settings
        self._history: list[Message] = []
        self._interrupted = False
        self._screen = Screen()

    def run(self) -> None:
        """Chat until somebody leaves.

        Raises:
            InfsError: the model cannot be loaded.
        """
        with (
            logging_to_stderr(self._config.log, quiet_failures=True),
            Session(make_server(self._config)) as session,
        ):
            self._load(session)
            self._screen.say(f"infs {VERSION}, chatting with {self._model}. /help shows what else there is.")
            while (line := self._read()) is not None:
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    self._answer(session, line)

    def _load(self, session: Session) -> None:
        view = view_on(sys.stderr, self._model)
        try:
            with closing(session.load(self._model)) as events:
                for event in events:
                    if isinstance(event, Progress):
                        view.show(event)
        finally:
            view.close()

    def _read(self) -> str | None:
        """The next line without spaces around it; ``None`` to leave."""
        while True:
            try:
                line = self._screen.read().strip()
            except EOFError:
                self._screen.end_line()
                return None
            except KeyboardInterrupt:
                self._screen.end_line()
                if self._interrupted:
                    return None
                self._interrupted = True
                self._screen.say("Ctrl-C once more, Ctrl-D or /exit leaves.")
                continue
            except UnicodeDecodeError:
                self._screen.say("That line is not valid text in the encoding of this terminal.")
                continue
            self._interrupted = False
            return None if line in ("/exit", "/quit") else line

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name == "/help":
            self._screen.say(HELP)
        elif name == "/reset":
            self._history.clear()
            self._screen.say("The conversation starts anew.")
        elif name == "/system":
            self._system = rest.strip() or None
            self._history.clear()
            told = "is told that first" if self._system else "is told nothing first"
            self._screen.say(f"The model {told}; the conversation starts anew.")
        else:
            self._screen.say(f"There is no {name}; /help shows what there is.")

    def _answer(self, session: Session, line: str) -> None:
        question = Message(role="user", content=line)
        told = [Message(role="system", content=self._system)] if self._system is not None else []
        request = ChatCompletionRequest(model=self._model, messages=[*told, *self._history, question], **self._settings)
        answer = Answer()
        try:
            answer.follow(session.stream(request), view_on(sys.stderr, self._model))
        except KeyboardInterrupt:
            self._interrupted = True
        except InfsError as error:
            answer.end()
            self._fail(error)
        answer.end()
        if answer.text:  # also what there is of one that was stopped
            self._history += [question, Message(role="assistant", content=answer.text)]

    def _fail(self, error: InfsError) -> None:
        hint = " /reset starts anew." if isinstance(error, ContextLengthExceeded) and self._history else ""
        self._screen.complain(f"{error.message}{hint}")


def _kept_loaded(config: Config, model: str) -> Config:
    """`config`, in which `model` stays loaded however long somebody thinks about the next line."""
    kept = msgspec.structs.replace(config.models[model], min_instances=1)
    return msgspec.structs.replace(config, models={model: kept})


class Screen:
    """Reads lines, and says things around the answers: with some style on a terminal, plainly elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._asks = sys.stdin.isatty()
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        if self._asks:
            with suppress(ImportError):  # there is none on Windows, whose terminal edits lines by itself
                import readline  # noqa: F401

    def read(self) -> str:
        """The next line; raises what ``input`` raises."""
        return input(PROMPT if self._asks else "")

    def end_line(self) -> None:
        """Leave the line that somebody was typing on."""
        if self._asks:
            self._console.print()

    def say(self, text: str) -> None:
        """Say something that is no answer."""
        self._console.print(text, style="dim")

    def complain(self, text: str) -> None:
        """Say that something went wrong."""
        self._console.print(text, style="red")

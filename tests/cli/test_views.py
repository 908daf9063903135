"""What people see: progress, answers, the banner."""

from __future__ import annotations

import io
import re
import sys
import textwrap
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from infs.cli.answer import Answer
from infs.cli.banner import banner
from infs.cli.progress import BarView, LineView, NoView, View, amount_of, line_of, view_on
from infs.config import Config, DeviceConfig, ModelConfig, ServerConfig
from infs.demo import demo_model
from infs.types import Delta, Event, Progress, TextCompletionResult, Usage
from tests.cli.programs import run
from tests.tiny import write_bert


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def download(done: int, total: int | None = 1000) -> Progress:
    """Progress of a download."""
    return Progress(stage="download", done=done, total=total, detail="x.gguf")


# --- progress


def test_lines_for_each_tenth_of_a_download() -> None:
    stream = io.StringIO()
    view = LineView(stream, "demo")
    for done in range(0, 1001, 5):
        view.show(download(done))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Downloading x.gguf: 0 bytes of 1.0 KB"
    assert lines[-1] == "Downloading x.gguf: 1.0 KB of 1.0 KB"
    assert len(lines) == 11


def test_lines_for_what_has_no_known_size_and_for_loading() -> None:
    stream = io.StringIO()
    view = view_on(stream, "demo")
    for event in (download(0, None), download(10, None), *(_loading(done) for done in (0, 50, 100))):
        view.show(event)
    view.show(Progress(stage="prompt", done=1, total=2, unit="tokens"))
    assert stream.getvalue().splitlines() == ["Downloading x.gguf: 0 bytes", "Loading demo"]


def _loading(done: int) -> Progress:
    return Progress(stage="load", done=done, total=100, unit="percent")


def test_bar_on_a_terminal_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    view = view_on(stream, "[demo]")
    assert isinstance(view, BarView)
    for event in (download(0), download(500), _loading(10), _loading(90)):
        view.show(event)
    view.close()
    view.close()
    shown = stream.getvalue()
    assert "Downloading x.gguf" in shown
    assert "Loading [demo]" in shown
    assert shown.endswith("\x1b[2K"), "the line is clear again"


def test_bar_shows_nothing_of_what_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    view = view_on(stream, "demo")
    view.show(Progress(stage="prompt", done=9, total=9, unit="tokens"))
    view.close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_is_quiet(stream: io.StringIO) -> None:
    view = view_on(stream, "demo", quiet=True)
    view.show(download(1))
    view.close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (download(1_500_000, 3_000_000_000), "1.5 MB of 3.0 GB"),
        (download(12, None), "12 bytes"),
        (Progress(stage="load", done=40, total=100, unit="percent"), "40%"),
        (Progress(stage="prompt", done=4, total=10, unit="tokens"), "4 tokens of 10"),
        (Progress(stage="queue", done=4, unit="requests"), "4 requests"),
    ],
)
def test_amounts(progress: Progress, text: str) -> None:
    assert amount_of(progress) == text


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (
            Progress(stage="download", done=10**9, total=4 * 10**9, detail="x.gguf", rate=2e7, remaining=150.4),
            "Downloading x.gguf: 1.0 GB of 4.0 GB, 20.0 MB/s, 2 min 30 s left",
        ),
        (
            Progress(stage="prompt", done=4, total=10, unit="tokens", rate=99.6, remaining=0.1),
            "Reading the prompt: 4 tokens of 10, 100 tokens/s, 0 s left",
        ),
        (
            Progress(stage="load", done=40, total=100, unit="percent", remaining=7400.0),
            "Loading a: 40%, 2 h 3 min left",
        ),
        (Progress(stage="memory", done=0, total=100, unit="percent"), "Waiting for memory: a"),
        (Progress(stage="memory", done=0, detail="8 GB"), "Waiting for memory: 8 GB"),
    ],
)
def test_lines_say_speed_and_time_left(progress: Progress, line: str) -> None:
    assert line_of(progress, "a") == line


def test_waiting_for_memory_is_one_line() -> None:
    stream = io.StringIO()
    view = LineView(stream, "a")
    for done in range(3):
        view.show(Progress(stage="memory", done=done))
    assert stream.getvalue() == "Waiting for memory: a\n"


def test_bar_says_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    view = view_on(stream, "a")
    view.show(Progress(stage="memory", done=0))
    view.show(Progress(stage="download", done=10**9, total=4 * 10**9, detail="x.gguf", rate=2e7, remaining=150.0))
    view.close()
    shown = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).split())
    assert "Waiting for memory: a" in shown
    assert "1.0 GB of 4.0 GB, 20.0 MB/s" in shown
    assert "2 min 30 s left" in shown


# --- answers


def events(*deltas: Delta, closed: list[bool] | None = None) -> Generator[Event]:
    """A stream with `deltas`; `closed` hears of its end."""
    try:
        yield download(1)
        yield from deltas
        yield TextCompletionResult(choices=[], usage=Usage())
    finally:
        if closed is not None:
            closed.append(True)


Show = Callable[[io.StringIO, list[Delta]], Answer]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Writes deltas to a stream in the place of standard output."""

    def show(stream: io.StringIO, deltas: list[Delta]) -> Answer:
        monkeypatch.setattr(sys, "stdout", stream)
        answer = Answer()
        assert isinstance(answer.follow(events(*deltas), NoView()), TextCompletionResult)
        answer.end()
        answer.end()
        return answer

    return show


def test_answer_elsewhere_is_the_text_and_nothing_else(show: Show) -> None:
    stream = io.StringIO()
    answer = show(stream, [Delta(reasoning="hm"), Delta(text="a\x1b[2J"), Delta(text="b")])
    assert stream.getvalue() == "a\x1b[2Jb\n"
    assert answer.text == "a\x1b[2Jb"


def test_answer_on_a_terminal_cannot_move_the_cursor(show: Show) -> None:
    stream = Terminal()
    answer = show(stream, [Delta(text="a\x1b[2J\x07\r\x9b\tb\n")])
    assert stream.getvalue() == "a[2J\tb\n"
    assert answer.text == "a\x1b[2J\x07\r\x9b\tb\n"


def test_reasoning_is_dimmed_on_a_terminal_and_no_part_of_the_answer(show: Show) -> None:
    stream = Terminal()
    answer = show(stream, [Delta(reasoning="hm"), Delta(reasoning=" yes"), Delta(text="Yes.")])
    assert stream.getvalue() == "\x1b[2mhm\x1b[0m\x1b[2m yes\x1b[0m\n\nYes.\n"
    assert answer.text == "Yes."


def test_empty_answer_has_no_line(show: Show) -> None:
    stream = io.StringIO()
    show(stream, [Delta(finish_reason="stop")])
    assert stream.getvalue() == ""


def test_leaving_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    closed: list[bool] = []
    shown: list[str] = []

    class Watch(NoView):
        def close(self) -> None:
            shown.append("closed")

    view: View = Watch()
    with pytest.raises(BrokenPipeError):
        Answer().follow(events(Delta(text="x"), closed=closed), view)
    assert closed == [True]
    assert shown[-1] == "closed"


# --- the banner

URL = "http://127.0.0.1:3000"


def test_banner_says_where_what_and_how() -> None:
    text = banner(URL, Config(models={"demo": demo_model()}))
    assert f"{URL}/v1 " in text
    assert "Models    demo\n" in text
    assert f'curl {URL}/v1/chat/completions \\\n    -H "Content-Type: application/json" \\\n    -d \'{{"model"' in text
    assert "Authorization" not in text
    assert 'api_key="none"' in text


def test_banner_never_has_the_key() -> None:
    config = Config(models={"demo": demo_model()}, server=ServerConfig(api_keys=["secret"]))
    text = banner(URL, config)
    assert "secret" not in text
    assert '-H "Authorization: Bearer $OPENAI_API_KEY"' in text
    assert "api_key=" not in text
    assert "Bearer %OPENAI_API_KEY%" in banner(URL, config, windows=True)


def test_banner_quotes_for_its_shell() -> None:
    config = Config(models={"demo": demo_model()})
    assert '-d "{\\"model\\": \\"demo\\"' in banner(URL, config, windows=True)
    assert "\\\n" not in banner(URL, config, windows=True)


@pytest.mark.parametrize(
    ("task", "route"),
    [("embedding", "/v1/embeddings"), ("text-completion", "/v1/completions"), (None, "/v1/chat/completions")],
)
def test_banner_asks_what_the_model_can_do(task: str | None, route: str) -> None:
    model = ModelConfig(file="/x", task=task)  # type: ignore[arg-type]
    assert f"curl {URL}{route} " in banner(URL, Config(models={"a": model}))


def test_banner_for_a_reranker_runs_in_python(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "rank.gguf", pooling="rank")
    model = ModelConfig(file="rank.gguf", task="rerank", device=DeviceConfig(gpu=False))
    said = banner(URL, Config(models={"a/b": model}, cache_path=str(path.parent)))
    assert "curl" not in said
    assert "no route for rerankers" in said
    code = said.partition("without this server:\n\n")[2].partition("\nCtrl-C")[0]
    done = run(cwd=tmp_path, program=[sys.executable, "-c", textwrap.dedent(code)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("RankedDocument(index=") == 2


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [
        ("127.0.0.1", [], False),
        ("::1", [], False),
        ("localhost", [], False),
        ("0.0.0.0", [], True),
        ("example.com", [], True),
        ("0.0.0.0", ["k"], False),
    ],
)
def test_banner_warns_of_an_open_door(host: str, keys: list[str], warned: bool) -> None:
    config = Config(models={"demo": demo_model()}, server=ServerConfig(host=host, api_keys=keys))
    assert ("there is no API key" in banner(URL, config)) == warned


def test_banner_with_no_model_and_with_many() -> None:
    assert "none; the configuration names none" in banner(URL, Config())
    many = Config(models={f"m{number}": demo_model() for number in range(12)})
    assert "m6, m7 and 4 more" in banner(URL, many)

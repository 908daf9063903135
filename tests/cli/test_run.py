"""``infs run`` with the demo model, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from infs.demo import MODEL_FILE
from tests.cli.programs import INTERRUPT, OWN_GROUP, PATIENCE, command, environment, one_line, run

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris.\n"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


ENDLESS = ("--set", 'models.demo.completion_defaults={"ignore_eos": true, "context_overflow": "shift"}')


def test_answer_goes_to_standard_output_and_all_else_to_standard_error(tmp_path: Path) -> None:
    done = run("run", QUESTION, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "Loading demo\n")


def test_quiet_says_nothing_else(tmp_path: Path) -> None:
    done = run("run", QUESTION, "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


@pytest.mark.parametrize("args", [(), ("-",)])
def test_prompt_from_standard_input(tmp_path: Path, args: tuple[str, ...]) -> None:
    assert run("run", *args, "-q", cwd=tmp_path, input=QUESTION).stdout == ANSWER


def test_json_is_the_whole_result(tmp_path: Path) -> None:
    result = json.loads(run("run", QUESTION, "--json", cwd=tmp_path).stdout)
    assert result["choices"][0]["message"]["content"] == ANSWER.strip()
    assert result["choices"][0]["finish_reason"] == "stop"
    assert result["usage"]["completion_tokens"] > 5


def test_settings_reach_the_request(tmp_path: Path) -> None:
    short = json.loads(run("run", QUESTION, "--json", "--max-tokens", "2", cwd=tmp_path).stdout)
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 2
    story = ("run", "Tell me a story.", "-q", "--temperature", "1.5", "--max-tokens", "30")
    answers = [run(*story, "--seed", seed, cwd=tmp_path).stdout for seed in ("1", "1", "2")]
    assert answers[0] == answers[1] != answers[2]


def test_system_reaches_the_model(tmp_path: Path) -> None:
    counts = [
        json.loads(run("run", QUESTION, "--json", *system, cwd=tmp_path).stdout)["usage"]["prompt_tokens"]
        for system in ((), ("--system", "Answer briefly."))
    ]
    assert counts[1] > counts[0] + 3


def test_raw_continues_a_text(tmp_path: Path) -> None:
    done = run("run", "--raw", "The capital of France is", "-q", "--max-tokens", "8", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, " Paris.\n")


def test_model_by_its_path_and_by_its_id(tmp_path: Path) -> None:
    (tmp_path / "infs.toml").write_text(f"models.mine.file = {json.dumps(str(MODEL_FILE))}\nmodels.b.file = '/none'")
    for model in ("mine", str(MODEL_FILE)):
        done = run("run", QUESTION, "--model", model, "--temperature", "0", "-q", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, ANSWER)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "x.gguf"),
        (b"not a model " * 1000, "is no GGUF file"),
        (MODEL_FILE.read_bytes()[:1_000_000], "could not be loaded"),
        (MODEL_FILE.read_bytes()[:1000], "could not be loaded"),
    ],
    ids=["empty", "other", "half", "header"],
)
def test_broken_files(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    done = run("run", "Hi", "-m", "x.gguf", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert said in last
    assert "Traceback" not in done.stderr


def test_missing_file(tmp_path: Path) -> None:
    done = run("run", "Hi", "-m", "no.gguf", cwd=tmp_path)
    assert (done.returncode, one_line(done.stderr)) == (2, "Error: There is no file no.gguf.")


def test_missing_file_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "infs.toml").write_text("models.a.file = '/not/there.gguf'")
    done = run("run", "Hi", cwd=tmp_path)
    warning, error = done.stderr.splitlines()
    assert done.returncode == 1
    assert "WARNING models.a.file: there is no " in warning
    assert error.startswith("Error: ")


def test_too_long_a_prompt_gives_both_numbers(tmp_path: Path) -> None:
    done = run("run", "-q", cwd=tmp_path, input="word " * 5000)
    assert done.returncode == 2
    assert "1024" in one_line(done.stderr)


def test_argument_that_is_no_unicode(tmp_path: Path) -> None:
    done = run("run", "-q", "\udcff", cwd=tmp_path)
    assert done.returncode == 2
    assert "not valid Unicode" in one_line(done.stderr)


def test_debug_logs_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    done = run("run", "Hi", "-m", "x.gguf", "--log-level", "debug", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.fixture
def web() -> Iterator[str]:
    """URL of a web server that has the demo model's file."""
    handler = partial(QuietHandler, directory=str(MODEL_FILE.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_download_shows_its_progress_and_is_kept(tmp_path: Path, web: str) -> None:
    args = ("run", QUESTION, "--cache-path", str(tmp_path), "--model", f"{web}/{MODEL_FILE.name}")
    first = run(*args, "--temperature", "0", cwd=tmp_path)
    lines = first.stderr.splitlines()
    assert (first.returncode, first.stdout) == (0, ANSWER)
    assert lines[0].startswith(f"Downloading {MODEL_FILE.name}: ")
    assert lines[-1] == "Loading demo"
    again = run(*args, "--temperature", "0", cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, ANSWER, "Loading demo\n")


def test_download_that_cannot_be_had(tmp_path: Path, web: str) -> None:
    done = run("run", "Hi", "--cache-path", str(tmp_path), "--model", f"{web}/none.gguf", cwd=tmp_path)
    assert done.returncode == 1
    assert f"{web}/none.gguf" in one_line(done.stderr)


@contextmanager
def telling() -> Iterator[subprocess.Popen[bytes]]:
    """``infs run`` in the middle of an answer without an end."""
    process = subprocess.Popen(
        command("run", "Tell me a story.", "--max-tokens", "1000000", *ENDLESS),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        creationflags=OWN_GROUP,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1)
            workers = psutil.Process(process.pid).children()
            assert workers
            yield process
            assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == [], "its worker has ended"
        finally:
            process.kill()


def test_reader_that_goes_away_ends_it_quietly() -> None:
    with telling() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read().splitlines() == [b"Loading demo"]


def test_ctrl_c_ends_it_cleanly() -> None:
    with telling() as process:
        process.send_signal(INTERRUPT)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert out.endswith(b"\n")
        assert err.split() == [b"Loading", b"demo"]

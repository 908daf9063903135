"""``infs serve`` in processes of its own: start, banner, requests, and the end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from infs.demo import MODEL_FILE
from tests.cli.programs import PATIENCE, environment, one_line, run, running, serving

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


def ask(url: str, model: str = "demo", key: str = "none") -> str | None:
    """The model's answer, through the official client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": QUESTION}])
    return answer.choices[0].message.content


def test_first_five_minutes(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as (program, url):
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{url}/").json()["models"].keys() == {"demo"}
        assert ask(url) == ANSWER
        program.stop()
        assert program.wait() == 0
        banner = "\n".join(program.out.rest())
    assert f"curl {url}/v1/chat/completions" in banner
    assert f'OpenAI(base_url="{url}/v1"' in banner


def test_python_of_the_banner_runs(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as (program, _):
        program.out.until("print(")
        lines = program.out.all
        start = next(number for number, line in enumerate(lines) if "from openai" in line)
        code = "\n".join(line.removeprefix("  ") for line in lines[start:])
        done = run(cwd=tmp_path, program=[sys.executable, "-c", code])
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n")


def test_curl_of_the_banner_runs(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as (program, _):
        program.out.until("or in Python")
        lines = program.out.all
        start = next(number for number, line in enumerate(lines) if line.startswith("  curl"))
        command = "\n".join(lines[start:-1])
        done = subprocess.run(command, shell=True, capture_output=True, timeout=PATIENCE, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == ANSWER


def test_model_file_gets_its_name_and_flags(tmp_path: Path) -> None:
    with serving(str(MODEL_FILE), "--model-id", "org/mine", "--context-size", "300", cwd=tmp_path) as (_, url):
        assert ask(url, "org/mine") == ANSWER
        status = httpx.get(f"{url}/").json()
    assert status["models"]["org/mine"]["instances"][0]["context_size"] == 300


def test_configuration_file_environment_and_flag_together(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("server: {api_keys: [file], host: 0.0.0.0}\nmodels: {demo: {ttl: 0}}")
    env = environment(INFS_SERVER__API_KEYS='["variable"]', INFS_CONFIG="not/read.toml")
    with serving("mine.yaml", "--host", "localhost", cwd=tmp_path, env=env) as (_, url):
        assert ask(url, key="variable") == ANSWER
        with pytest.raises(openai.AuthenticationError):
            ask(url, key="file")


def test_start_is_quick_and_small(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as (program, url):
        httpx.get(f"{url}/health").raise_for_status()
        assert psutil.Process(program.process.pid).memory_info().rss < 90_000_000


# --- the end


def test_sigterm_lets_a_stream_finish(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as (program, url):
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "stream": True,
            "max_tokens": 900,
            "ignore_eos": True,
        }
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            program.stop()
            program.err.until("Shutting down")
            rest = [line for line in lines if line]
        assert first.startswith("data: ")
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert rest[-1] == "data: [DONE]"
        assert len(rest) > 500
        assert program.wait() == 0


def test_ctrl_c_ends_it_and_its_worker(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as (program, url):
        assert ask(url) == ANSWER
        workers = psutil.Process(program.process.pid).children()
        assert workers
        program.interrupt()
        assert program.wait() == 0
        assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == []
        assert "Traceback" not in "\n".join(program.err.rest())


def test_idle_model_leaves_after_its_ttl(tmp_path: Path) -> None:
    with serving("--ttl", "0.1", cwd=tmp_path) as (program, url):
        assert ask(url) == ANSWER
        program.err.until("Unloading demo")
        deadline = time.monotonic() + PATIENCE
        while psutil.Process(program.process.pid).children():
            assert time.monotonic() < deadline
        assert ask(url) == ANSWER


# --- the configuration, read again


def test_configuration_is_read_again_while_it_serves(tmp_path: Path) -> None:
    path = tmp_path / "infs.toml"
    path.write_text("models.demo.ttl = 60\nmodels.old.file = '/old.gguf'")
    with serving(cwd=tmp_path) as (program, url):
        assert ask(url) == ANSWER
        workers = psutil.Process(program.process.pid).children()
        path.write_text("models.demo.ttl = 60\nmodels.new.file = '/new.gguf'\nserver.stall_timeout = 1")
        assert httpx.post(f"{url}/admin/reload").json() == {
            "added": ["new"],
            "changed": [],
            "removed": ["old"],
            "unchanged": ["demo"],
            "restart": ["server.stall_timeout"],
        }
        path.write_text("models.demo.ttll = 60")
        refused = httpx.post(f"{url}/admin/reload")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "models.demo.ttll")
        if hasattr(signal, "SIGHUP"):
            program.process.send_signal(signal.SIGHUP)
            line = program.err.until("nothing has changed: ")
            assert "unknown key 'models.demo.ttll'" in line
        assert httpx.get(f"{url}/").json()["models"].keys() == {"demo", "new"}
        assert ask(url) == ANSWER
        assert psutil.Process(program.process.pid).children() == workers


# --- refusals


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port, cwd=tmp_path)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith(f"Error: Cannot listen on 127.0.0.1 port {port}: the port is in use.")


def test_host_that_is_not_ours(tmp_path: Path) -> None:
    done = run("serve", "--host", "no.such.host.invalid", "--port", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "server.host" in one_line(done.stderr)


def test_missing_file(tmp_path: Path) -> None:
    done = run("serve", "no.gguf", cwd=tmp_path)
    assert (done.returncode, one_line(done.stderr)) == (2, "Error: There is no file no.gguf.")


def test_missing_file_of_the_configuration_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "infs.toml").write_text("models.demo.ttl = 1\nmodels.a.file = '/not/there.gguf'")
    with serving(cwd=tmp_path) as (program, url):
        assert "WARNING models.a.file: there is no " in program.err.until("not")
        assert ask(url) == ANSWER
        with pytest.raises(openai.APIStatusError, match=r"there\.gguf"):
            ask(url, "a")


def test_bad_model_for_blocking_preparation_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "infs.toml").write_text("models.a = { file = '/not/there.gguf', prepare = 'blocking' }")
    done = run("serve", "--port", "0", "--log-level", "error", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there.gguf" in one_line(done.stderr)


# --- logs


def test_json_log_has_an_object_on_every_line(tmp_path: Path) -> None:
    with running("serve", "--port", "0", "--log-format", "json", cwd=tmp_path) as program:
        ready = json.loads(program.err.until("is ready"))
        assert ready["models"] == ["demo"]
        assert ask(ready["url"]) == ANSWER
        program.stop()
        assert program.wait() == 0
        records = [json.loads(line) for line in program.err.rest()]
        assert program.out.rest() == []
    assert all(record.keys() >= {"ts", "level", "logger", "message"} for record in records)
    messages = [record["message"] for record in records]
    assert sum("Listening on" in message for message in messages) == 1
    assert sum("/v1/chat/completions" in message for message in messages) == 1


def test_reader_of_the_banner_may_go_away(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "infs", "serve", "--port", "0"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        try:
            url = process.stderr.readline().split()[-1].decode()
            assert ask(url) == ANSWER
        finally:
            process.kill()

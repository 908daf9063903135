"""What the package promises as a whole: its names, its vocabulary, its README."""

from __future__ import annotations

import asyncio
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import infs
import infs.config
import infs.errors
from infs.codec import Cancel, Failed, Happened, RequestCodec, decode_frame, encode_frame
from infs.engines.llama_cpp.options import LlamaOptions
from infs.errors import Failure, InfsError, InvalidRequest, RequestCancelled
from infs.runner import BoundConvenience, Convenience, Conveniences, Runner
from infs.server import InferenceServer
from infs.testing import FakeEngine, demo_server
from infs.types import (
    GENERATION_OPTIONS,
    TASKS,
    UNSET,
    ChatCompletionRequest,
    Delta,
    EmbeddingRequest,
    GenerationRequest,
    Message,
    Result,
    TextCompletionRequest,
    TokenLogprob,
    TopLogprob,
    validate,
)
from tests.e2e.served import serve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXPECTED_NAMES = """ChatCompletionRequest ChatCompletionResult ChoiceQuestion Config DecisionRequest DecisionResult
Delta DeviceConfig EmbeddingRequest Predicate ScoreQuestion
EmbeddingResult Event InferenceServer InfsError Message ModelConfig Progress Request RerankRequest RerankResult Result
Runner TextCompletionRequest TextCompletionResult ServerTool Tool ToolCall ToolConfig ToolContext ToolUse Usage
__version__ demo_model load_config tool"""


def errors() -> list[type[InfsError]]:
    """The classes of the tree; other modules may have more below them."""
    found: list[type[InfsError]] = [InfsError]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub.__module__ == "infs.errors"]
    return found


def test_public_names_are_these() -> None:
    assert sorted(infs.__all__) == sorted(EXPECTED_NAMES.split())
    assert all(hasattr(infs, name) for name in infs.__all__)


def test_the_error_tree_is_the_one_that_is_drawn() -> None:
    drawn = re.findall(r"[├└]── (\w+)", infs.errors.__doc__ or "")
    assert sorted(["InfsError", *drawn]) == sorted(kind.__name__ for kind in errors())
    assert len({kind.code for kind in errors()}) == len(errors()), "codes are unique"


@pytest.mark.parametrize("kind", errors())
def test_errors_cross_processes_as_themselves(kind: type[InfsError]) -> None:
    error = kind("what happened", param="field", retry_after=2.0)
    for copy in (InfsError.from_failure(error.to_failure()), pickle.loads(pickle.dumps(error))):
        assert type(copy) is kind
        assert (str(copy), copy.param, copy.retry_after) == ("what happened", "field", 2.0)
    assert 400 <= kind.status < 600


def test_a_class_without_a_code_of_its_own_crosses_as_the_one_above() -> None:
    class Special(RequestCancelled):
        """Like any other."""

    assert type(InfsError.from_failure(Special("x").to_failure())) is RequestCancelled


def test_an_unknown_failure_is_still_an_error() -> None:
    error = InfsError.from_failure(Failure(code="from_the_future", message="x"))
    assert type(error) is InfsError


def test_every_task_has_its_convenience() -> None:
    named = {name: c.request for name, c in vars(Conveniences).items() if isinstance(c, Convenience)}
    made = {getattr(request, "task", None): name for name, request in named.items()}
    assert made == {task: task.replace("-", "_") for task in TASKS}
    server = InferenceServer()
    assert isinstance(server, Runner)
    assert isinstance(server.chat_completion, BoundConvenience)
    assert isinstance(InferenceServer.chat_completion, Convenience)


async def test_conveniences_run_and_stream() -> None:
    async with InferenceServer({"m": {"engine": "fake"}}, {"fake": FakeEngine}) as server:
        assert (await server.text_completion(model="m", prompt="a b")).text == "a b"
        events = [event async for event in server.text_completion.stream(model="m", prompt="a b")]
        assert isinstance(events[-1], Result)


def test_generation_options_are_unset_unless_given() -> None:
    request = TextCompletionRequest(model="m", prompt="x", temperature=0.0, max_tokens=None)
    assert request.set_options() == {"temperature": 0.0, "max_tokens": None}
    hints = get_type_hints(GenerationRequest, include_extras=True)
    assert all(getattr(request, name) is UNSET for name in GENERATION_OPTIONS if name not in request.set_options())
    assert set(GENERATION_OPTIONS) < set(hints)


text = st.text(st.characters(exclude_categories=["Cs"]))
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=10,
)
requests: st.SearchStrategy[Any] = st.one_of(
    st.builds(TextCompletionRequest, model=text, prompt=text | st.lists(st.integers(0, 2**31 - 1)), echo=st.booleans()),
    st.builds(
        ChatCompletionRequest,
        model=text,
        messages=st.lists(
            st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=text | st.none()),
            min_size=1,
        ),
        temperature=st.floats(0, 2),
        seed=st.integers(-(2**63), 2**63 - 1),
        template_options=st.dictionaries(text, anything),
    ),
    st.builds(EmbeddingRequest, model=text, input=st.lists(text, min_size=1)),
)


@given(requests)
def test_requests_survive_the_pipe(request: Any) -> None:
    codec = RequestCodec()
    assert codec.decode_request(codec.encode(request)) == request
    assert validate(request) is request


def test_events_and_frames_survive_the_pipe() -> None:
    codec = RequestCodec()
    top = TopLogprob(token="\ufffd", bytes=b"\xf0\x9f", logprob=-0.5)
    delta = Delta(index=1, text="🙂", logprobs=[TokenLogprob(token="x", bytes=b"x", logprob=None, top=[top])])
    assert codec.decode_event(codec.encode(delta)) == delta
    for frame in (
        Happened(id=3, events=[codec.encode(delta)]),
        Failed(id=1, failure=RequestCancelled("x").to_failure()),
        Cancel(id=7),
    ):
        assert decode_frame(encode_frame(frame)[4:]) == frame


@given(st.binary())
def test_bytes_that_are_no_frame_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_frame(b"\xc1" + data)  # the one byte that msgpack never uses


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (TextCompletionRequest(model="m", prompt="x", n=0), "n"),
        (TextCompletionRequest(model="m", prompt="x", top_p=1.5), "top_p"),
        (TextCompletionRequest(model="m", prompt="x", timeout=0), "timeout"),
        (TextCompletionRequest(model="m", prompt=[-1]), "prompt[0]"),
        (ChatCompletionRequest(model="m", messages=[]), "messages"),
        (EmbeddingRequest(model="m", input=[]), "input"),
        (TextCompletionRequest(model="m", prompt=object()), None),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_are_refused_by_name(request_: Any, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(request_)
    assert caught.value.param == param


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_examples_of_the_readme_work(tmp_path: Path) -> None:
    client, library, mounted = blocks("python")
    with serve(cwd=tmp_path) as served:
        assert len(run_python(client.replace("http://127.0.0.1:3000", served.url), tmp_path)) > 20
    assert "The capital of France is Paris." in run_python(library, tmp_path)
    check = "\nfrom starlette.testclient import TestClient\nprint(TestClient(app).get('/ai/v1/models').json())"
    assert "'demo'" in run_python(f"import warnings; warnings.simplefilter('ignore')\n{mounted}{check}", tmp_path)


def test_the_configuration_of_the_readme_is_valid(tmp_path: Path) -> None:
    [toml] = blocks("toml")
    (tmp_path / "infs.toml").write_text(toml)
    config = infs.load_config(directory=tmp_path)
    assert config.server.port == 8080
    assert config.models["small"].ttl == 600
    InferenceServer.from_config(config)


PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_configurations_of_the_pages_are_valid(page: Path) -> None:
    for number, toml in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)):
        config = infs.config.parse_config(tomllib.loads(toml), where=f"example {number}")
        for model in config.models.values():
            infs.config.convert(model.options, LlamaOptions, f"example {number}", "options")


async def test_the_demo_server_for_tests_of_others() -> None:
    async with demo_server(max_sequences=2) as server:
        assert server.models["demo"].max_sequences == 2
        answer = await asyncio.wait_for(
            server.chat_completion(model="demo", messages=[Message(role="user", content="Capital of Japan?")]), 60
        )
    assert answer.text == "The capital of Japan is Tokyo."

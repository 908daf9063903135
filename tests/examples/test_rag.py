"""Documents before the conversation: which passages, their vectors, and the sources behind the answer."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import rag
from combining import start
from infs.errors import ConfigError, ContextLengthExceeded, LoadFailed
from infs.server import InferenceServer
from infs.testing import FakeEngine
from infs.types import Delta, EmbeddingRequest, JsonConstraint, Message, Progress
from tests.examples.serving import ask, chats, events_of, server_of, usage
from tests.toolbox.scripted import Scripted, calling, saying

USER = Message(role="user", content="the sea")
EXAMPLES = Path(rag.__file__).parent


class Embedder(FakeEngine):
    """The vector of a text is that of its hash, so a question fits best what says the same."""

    @property
    def texts(self) -> list[list[Any]]:
        """What was embedded, request by request."""
        return [list(request.input) for request in self.requests if isinstance(request, EmbeddingRequest)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "sea.md").write_text("the sea\n\n\n\nfish\n")
    (tmp_path / "land.txt").write_text("the land\n")
    (tmp_path / "other.csv").write_text("the sea")
    return tmp_path


def reading(folder: Path, embedder: FakeEngine, chat: FakeEngine, **options: Any) -> InferenceServer:
    settings = {"folder": str(folder), "embedder": "embedder", "chat": "chat", "top": 1, "length": 8, **options}
    return server_of(rag.ENGINE, settings, {"embedder": embedder, "chat": chat})


async def test_the_best_passages_come_before_the_conversation_and_the_sources_behind_it(folder: Path) -> None:
    embedder, chat = Embedder(), FakeEngine(words=["It", "is", "wet."])
    async with reading(folder, embedder, chat, instructions="Use this.") as server:
        events, result = await events_of(server, ask(USER))
        system = Message(role="system", content="Be brief.")
        both = await server.run(ask(system, USER, Message(role="assistant", content="Yes?"), USER, n=2))
    told = "Use this.\n\ndeep/sea.md:\nthe sea"
    first, second = chats(chat)
    assert first == [Message(role="system", content=told), USER]
    assert second[0].content == f"Be brief.\n\n{told}"
    assert [message.role for message in second] == ["system", "user", "assistant", "user"]
    assert result.text == "It is wet.\n\nSources: deep/sea.md"
    assert [choice.message.content for choice in both.choices] == [result.text] * 2
    assert "".join(event.text for event in events if isinstance(event, Delta)) == result.text
    assert any(isinstance(event, Progress) and event.detail == "embedding documents" for event in events)
    embedded = len("the sea") + len("fish") + len("the land") + len("the sea")
    assert result.usage == usage(embedded + 2, 3)


async def test_only_what_is_new_is_embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag, "BATCH", 2)
    embedder = Embedder()
    async with reading(folder, embedder, FakeEngine()) as server:
        await server.run(ask(USER))
        assert embedder.texts == [["the sea", "fish"], ["the land"], ["the sea"]]
        await asyncio.gather(server.run(ask(USER)), server.run(ask(USER)))
        assert embedder.texts[3:] == [["the sea"]] * 2
        (folder / "land.txt").write_text("the land\n\nthe sand")
        (folder / "deep" / "sea.md").unlink()
        result = await server.run(ask(Message(role="user", content="the sand")))
        assert embedder.texts[5:] == [["the sand"], ["the sand"]]
        assert result.text.endswith("Sources: land.txt")
        [instance] = (await server.status()).models["m"].instances
        assert instance.engine == {"passages": 2}


async def test_the_answer_streams_while_it_is_made(folder: Path) -> None:
    gate = asyncio.Semaphore(0)
    chat = FakeEngine(words=["a", "b"], gate=gate)
    async with reading(folder, Embedder(), chat) as server, aclosing(server.stream(ask(USER))) as events:
        gate.release()
        assert await anext(event async for event in events if isinstance(event, Delta)) == Delta(text="a")
        assert chat.running == 1


async def test_sources_stand_only_behind_answers_in_prose(folder: Path) -> None:
    call = calling(("f", {}))
    async with reading(folder, Embedder(), Scripted(call)) as server:
        events, result = await events_of(server, ask(USER))
        assert result.choices[0].message == call
        assert not any(event.text for event in events if isinstance(event, Delta))
    async with reading(folder, Embedder(), Scripted(saying("{}"))) as server:
        assert (await server.run(ask(USER, constraint=JsonConstraint()))).text == "{}"
    async with reading(folder, Embedder(), FakeEngine(), patterns=["*.none"]) as server:
        assert (await server.run(ask(USER))).text == "the sea"


async def test_failures_are_those_of_the_models_behind(folder: Path) -> None:
    class Refusing(Embedder):
        async def run(self, request: Any, context: Any) -> Any:
            if "fish" in request.input:
                raise ContextLengthExceeded("too long", param="input")
            async for event in super().run(request, context):
                yield event

    async with reading(folder, Refusing(), FakeEngine()) as server:
        for _ in range(2):
            with pytest.raises(ContextLengthExceeded):
                await server.run(ask(USER))
        (folder / "deep" / "sea.md").write_text("the sea")
        assert "Sources" in (await server.run(ask(USER))).text


@pytest.mark.parametrize(
    ("options", "said"),
    [({"top": 0}, "options.top"), ({"patterns": []}, "options.patterns"), ({"file": 1}, "options.file")],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        reading(Path(), FakeEngine(), FakeEngine(), **options)


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with reading(tmp_path / "lost", FakeEngine(), FakeEngine()) as server:
        with pytest.raises(LoadFailed, match=r"models\.m\.options\.folder: there is no folder .*lost"):
            await server.run(ask(USER))


def test_a_long_paragraph_stays_whole_and_short_ones_go_together() -> None:
    assert rag.cut("a\n\nb\n \nccccc\n\n\nd", 6) == ["a\n\nb", "ccccc", "d"]
    assert rag.cut("\n\n", 6) == []


def test_the_program() -> None:
    command = [sys.executable, "-W", "error", rag.__file__, "Who are you?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "I am Rosa, a baker.\n\nSources: baker.md, hours.md, bread.txt\n")


def test_the_program_says_in_a_line_what_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rag.py", "Who are you?", "--chat", "lost.gguf", "--embedder", "lost.gguf"])
    with pytest.raises(SystemExit, match=r"SourceNotFound: .*lost\.gguf"):
        start(rag.main)


def test_the_readme_names_all_programs_and_shows_what_can_be() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    programs = [path.name for path in EXAMPLES.glob("*.py")]
    assert sorted(name for name in programs if f"`{name}`" not in text) == []
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert list(found["server"].models) == ["demo", "documents"]

"""What ``infs serve`` says once it is ready: where it is, and requests to paste."""

from __future__ import annotations

import json
import shlex
from typing import Any

import msgspec

from infs.cli.addresses import is_loopback
from infs.config import Config, ModelConfig
from infs.version import VERSION

QUESTION = "What is the capital of France?"
SHOWN = 8  # models


def banner(url: str, config: Config, *, windows: bool = False) -> str:
    """The text for a server at `url`; `windows` quotes the command for its shells."""
    parts = [
        f"infs {VERSION} is ready.\n",
        f"  API       {url}/v1  (OpenAI-compatible; described at {url}/docs)",
        f"  Status    {url}/",
        f"  Models    {_names(list(config.models))}",
        *_warnings(config),
    ]
    if config.models:
        parts += _try_it(url, config, windows=windows)
    parts += ["\nCtrl-C stops it.\n"]
    return "\n".join(parts)


def _try_it(url: str, config: Config, *, windows: bool) -> list[str]:
    name, model = next(iter(config.models.items()))
    if model.task == "rerank":
        library = _indented(library_request(name, model, config.cache_path))
        return ["\nThe HTTP API has no route for rerankers; in Python, without this server:\n", library]
    keyed = bool(config.server.api_keys)
    curl = _indented(curl_request(url, name, model, keyed=keyed, windows=windows))
    python = _indented(python_request(url, name, model, keyed=keyed))
    return ["\nTry it:\n", curl, "\nor in Python (pip install openai):\n", python]


def _names(models: list[str]) -> str:
    if not models:
        return "none; the configuration names none"
    more = f" and {len(models) - SHOWN} more" if len(models) > SHOWN else ""
    return ", ".join(models[:SHOWN]) + more


def _warnings(config: Config) -> list[str]:
    if config.server.api_keys or is_loopback(config.server.host):
        return []
    return ["\n  Whoever reaches this machine can use it: there is no API key (--api-key sets one)."]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def example(name: str, model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """The route and the body of a request that `model`, which is no reranker, can answer."""
    if model.task == "embedding":
        return "embeddings", {"model": name, "input": "Hello"}
    if model.task == "text-completion":
        return "completions", {"model": name, "prompt": "The capital of France is", "max_tokens": 20}
    return "chat/completions", {"model": name, "messages": [{"role": "user", "content": QUESTION}]}


def curl_request(url: str, name: str, model: ModelConfig, *, keyed: bool, windows: bool) -> str:
    """A command to paste into a shell."""
    route, body = example(name, model)
    data = json.dumps(body)
    quoted = '"' + data.replace('"', '\\"') + '"' if windows else shlex.quote(data)
    key = "%OPENAI_API_KEY%" if windows else "$OPENAI_API_KEY"
    lines = [f"curl {url}/v1/{route}", '-H "Content-Type: application/json"']
    lines += [f'-H "Authorization: Bearer {key}"'] if keyed else []
    return (" " if windows else " \\\n  ").join([*lines, f"-d {quoted}"])


def python_request(url: str, name: str, model: ModelConfig, *, keyed: bool) -> str:
    """The same with the official client, which reads ``OPENAI_API_KEY`` itself where a key is wanted."""
    route, body = example(name, model)
    said = {
        "embeddings": "answer.data[0].embedding",
        "completions": "answer.choices[0].text",
        "chat/completions": "answer.choices[0].message.content",
    }
    values = "".join(f"    {key}={json.dumps(value)},\n" for key, value in body.items())
    key = "" if keyed else ', api_key="none"'
    return (
        f'from openai import OpenAI\n\nclient = OpenAI(base_url="{url}/v1"{key})\n'
        f"answer = client.{route.replace('/', '.')}.create(\n{values})\nprint({said[route]})"
    )


def library_request(name: str, model: ModelConfig, cache_path: str | None) -> str:
    """The same with the library, for a reranker."""
    usual = msgspec.to_builtins(ModelConfig())
    settings = {key: value for key, value in msgspec.to_builtins(model).items() if value != usual[key]}
    where = "" if cache_path is None else f", cache_path={cache_path!r}"
    return f"""import asyncio

from infs import InferenceServer


async def main():
    async with InferenceServer({{{name!r}: {settings!r}}}{where}) as server:
        result = await server.rerank(
            model={name!r},
            query={QUESTION!r},
            documents=["Paris is the capital of France.", "Bread is made of flour."],
        )
        print(result.documents)


asyncio.run(main())"""

"""``/v1/chat/completions``: conversations answered."""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from infs.errors import InvalidRequest
from infs.http.endpoint import Operation
from infs.http.openai import answers
from infs.http.openai.answers import ChatCompletion, ChatCompletionChunk, ChatDelta
from infs.http.openai.bodies import (
    AllowedToolsChoice,
    ChatBody,
    FunctionChoice,
    ToolBody,
    ToolChoice,
)
from infs.http.openai.completing import Job, complete
from infs.http.openai.intake import make, read
from infs.http.openai.logprobs import chat_logprobs
from infs.http.openai.media import Fetched, fetch_media
from infs.http.openai.messages import to_message
from infs.http.openai.options import alias, generation_options
from infs.http.reading import check_depth
from infs.http.service import Service
from infs.types import (
    ChatChoice,
    ChatCompletionRequest,
    ChatCompletionResult,
    Delta,
    FinishReason,
    NamedTool,
    Tool,
    ToolCallDelta,
)


async def chat_completions(service: Service, request: Request) -> Response:
    """Answer ``POST /v1/chat/completions``."""
    body = await read(service, request, ChatBody)
    fetched = await fetch_media(service, request, body.messages)
    return await complete(service, request, body, _job(body, fetched), ChatForm(body))


def _job(body: ChatBody, fetched: Fetched) -> Job[ChatCompletionResult]:
    options, names = generation_options(body)
    alias(body, "max_tokens", "max_completion_tokens", options, names)
    names |= {
        "prompt": "messages",
        "logprobs": "top_logprobs",
        "template_options": "chat_template_kwargs",
        r"tools(\[\d+\])": r"tools\1.function",
    }
    options |= _logprobs(body) | _flags(body) | _tools(body)
    if template_options := _template_options(body):
        options["template_options"] = template_options
    messages = [to_message(number, message, fetched) for number, message in enumerate(body.messages)]
    asked = make(ChatCompletionRequest, names, model=body.model, messages=messages, **options)
    return Job(requests=[asked], n=1, names=names)


def _logprobs(body: ChatBody) -> dict[str, Any]:
    if body.logprobs:
        return {"logprobs": body.top_logprobs or 0}
    if body.top_logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return {}


def _flags(body: ChatBody) -> dict[str, Any]:
    given = {
        "parallel_tool_calls": body.parallel_tool_calls,
        "max_tool_rounds": body.max_tool_rounds,
        "reasoning_budget": body.reasoning_budget,
        "continue_final_message": body.continue_final_message,
    }
    return {name: value for name, value in given.items() if value is not None}


def _template_options(body: ChatBody) -> dict[str, Any]:
    """Variables for the chat template; those given by name beat those that follow from the effort."""
    options: dict[str, Any] = {}
    if body.reasoning_effort is not None:
        thinking = body.reasoning_effort != "none"
        options = {"reasoning_effort": body.reasoning_effort, "enable_thinking": thinking}
    if body.chat_template_kwargs is not None:
        check_depth(body.chat_template_kwargs, "chat_template_kwargs")
        options |= body.chat_template_kwargs
    return options


# --- tools ----------------------------------------------------------------------------------------------------


def _tools(body: ChatBody) -> dict[str, Any]:
    tools = [_tool(number, tool) for number, tool in enumerate(body.tools or [])]
    known = [tool.name for tool in tools]
    for number, name in enumerate(known):
        if name in known[:number]:
            raise InvalidRequest(f"Two tools are called {name!r}.", param=f"tools[{number}].function.name")
    if body.tool_choice is None:
        return {"tools": tools} if tools else {}
    return {"tools": tools, "tool_choice": _tool_choice(body.tool_choice, known)}


def _tool(number: int, tool: ToolBody) -> Tool:
    function = tool.function
    check_depth(function.parameters, f"tools[{number}].function.parameters")
    return Tool(
        name=function.name,
        description=function.description,
        parameters=function.parameters,
        strict=bool(function.strict),
    )


def _tool_choice(choice: ToolChoice, known: list[str]) -> str | NamedTool:
    if isinstance(choice, FunctionChoice):
        return _named([choice.function.name], known, "tool_choice.function.name", required=True)
    if isinstance(choice, AllowedToolsChoice):
        allowed = choice.allowed_tools
        names = [tool.function.name for tool in allowed.tools]
        return _named(names, known, "tool_choice.allowed_tools.tools", required=allowed.mode == "required")
    if choice == "required" and not known:
        raise InvalidRequest("tool_choice is 'required', and there are no tools.", param="tool_choice")
    return choice


def _named(names: list[str], known: list[str], param: str, *, required: bool) -> NamedTool:
    for name in names:
        if name not in known:
            raise InvalidRequest(f"There is no tool {name[:100]!r} in tools.", param=param)
    return NamedTool(names=names, required=required)


# --- the answer -----------------------------------------------------------------------------------------------


class ChatForm:
    """Chat completions, as this API writes them."""

    prefix = "chatcmpl"

    def __init__(self, body: ChatBody) -> None:
        tier: str | UnsetType = UNSET if body.service_tier is None else "default"
        self.answer = partial(ChatCompletion, service_tier=tier)
        self.chunk = partial(ChatCompletionChunk, service_tier=tier)

    def choices(self, first: int, result: ChatCompletionResult) -> list[answers.ChatChoice]:
        """The choices of a result."""
        return [_choice(first + choice.index, choice) for choice in result.choices]

    def opening(self, index: int, delta: Delta) -> answers.ChatChunkChoice:
        """The role, once. Content that may never come is null, not empty."""
        content = None if delta.tool_calls or delta.reasoning else ""
        return answers.ChatChunkChoice(index=index, delta=ChatDelta(role="assistant", content=content))

    def piece(self, index: int, delta: Delta) -> answers.ChatChunkChoice | None:
        """What is new in a message."""
        if not (delta.text or delta.reasoning or delta.tool_calls or delta.logprobs):
            return None
        new = ChatDelta(
            content=delta.text or UNSET,
            reasoning_content=delta.reasoning or UNSET,
            tool_calls=[_call_delta(call) for call in delta.tool_calls] or UNSET,
        )
        logprobs = chat_logprobs(delta.logprobs) if delta.logprobs else None
        return answers.ChatChunkChoice(index=index, delta=new, logprobs=logprobs)

    def closing(self, index: int, reason: FinishReason) -> answers.ChatChunkChoice:
        """The end, with nothing new."""
        return answers.ChatChunkChoice(index=index, delta=ChatDelta(), finish_reason=reason)

    def deltas(self, result: ChatCompletionResult) -> list[Delta]:
        """Each message in one piece."""
        return [_as_delta(choice) for choice in result.choices]


def _choice(index: int, choice: ChatChoice) -> answers.ChatChoice:
    said = choice.message
    calls = [
        answers.ToolCall(id=call.id, function=answers.Function(name=call.name, arguments=call.arguments))
        for call in said.tool_calls
    ]
    return answers.ChatChoice(
        index=index,
        message=answers.ChatMessage(
            content=said.content,
            reasoning_content=said.reasoning or UNSET,
            tool_calls=calls or UNSET,
        ),
        logprobs=None if choice.logprobs is None else chat_logprobs(choice.logprobs),
        finish_reason=choice.finish_reason,
    )


def _call_delta(call: ToolCallDelta) -> answers.ToolCallDelta:
    return answers.ToolCallDelta(
        index=call.index,
        id=UNSET if call.id is None else call.id,
        type=UNSET if call.id is None else "function",
        function=answers.FunctionDelta(name=UNSET if call.name is None else call.name, arguments=call.arguments),
    )


def _as_delta(choice: ChatChoice) -> Delta:
    said = choice.message
    calls = [
        ToolCallDelta(index=number, id=call.id, name=call.name, arguments=call.arguments)
        for number, call in enumerate(said.tool_calls)
    ]
    return Delta(
        index=choice.index,
        text=said.content or "",
        reasoning=said.reasoning or "",
        tool_calls=calls,
        logprobs=choice.logprobs or [],
        finish_reason=choice.finish_reason,
    )


OPERATION = Operation(
    method="POST",
    path="/chat/completions",
    summary="Answer a conversation",
    handler=chat_completions,
    body=ChatBody,
    answer=ChatCompletion,
    chunk=ChatCompletionChunk,
)

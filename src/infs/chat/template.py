"""Chat templates: a conversation as the text that a model goes on with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import msgspec

from infs.chat.conversation import Conversation, candidates, convert
from infs.chat.dialects import choose
from infs.chat.media import Mark, Media, MediaKind, Write, find_marks, with_marks
from infs.chat.probe import Probe
from infs.chat.tools import check_tools, offered_tools
from infs.errors import InfsError, InvalidRequest
from infs.types import ChatCompletionRequest, Message

RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


class ChatTemplate:
    """A model's chat template, compiled once.

    Args:
        source: the Jinja text; ``None`` for a model without one, whose prompts are lines of ``role: content``.
        bos_token, eos_token: the texts of these tokens, which templates may write.

    Attributes:
        dialect: in which the model writes tool calls.
        plain: there is no template.
        stop: texts that end an answer beside the model's own end token; only a plain prompt needs any.

    A template writes the special tokens that it needs, a first token included where it wants one.

    Raises:
        LoadFailed: `source` is not valid Jinja; the message has the line.
    """

    def __init__(self, source: str | None, *, bos_token: str = "", eos_token: str = "") -> None:
        self.source = source
        self.dialect = choose(source)
        self.plain = source is None
        self.stop = ["\nuser:", "\nsystem:", "\ntool:"] if self.plain else []
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        if source is not None:
            from infs.chat.sandbox import compile_template

            self._template = compile_template(source)

    @functools.cached_property
    def marks(self) -> Mapping[MediaKind, Mark]:
        """How it marks media; kinds that it does not know are missing."""
        bare = ChatCompletionRequest(model="-", messages=[Message(role="user", content="-")])
        return find_marks(lambda conversation: self._write(conversation, bare, True))

    def render(self, request: ChatCompletionRequest, *, opened: bool = True, media: Media | None = None) -> str:
        """The prompt for `request`; unless `opened`, without what the template adds to open an answer.

        Where the template refuses or drops some of the messages, they are adapted to it step by step: system
        messages merged, then folded into the first user message, neighbours of the same role merged, tools and
        their calls written as text. The first step that keeps every text is taken; whether it does is tried with
        stand-ins for the texts, so that it depends on the shape of the conversation alone.

        Args:
            media: what stands in `request` for images and audio; the prompt has the same stand-ins, each once.

        Raises:
            InvalidRequest: the template takes these messages in no form (with its own words), tools or options
                are wrong, or `continue_final_message` is set and the last message is not the assistant's.
            Unsupported: a message has an image, or audio.
        """
        _check(request)
        media = media or Media(request)
        tools = offered_tools(request)
        probe = Probe(request.messages, tools, media)
        failure: Exception | None = None
        for write in self._ways(request, opened, media):
            for adapt, form in candidates(convert(request.messages, tools), self.dialect):
                try:
                    if probe.is_kept(write(adapt(convert(probe.messages, probe.tools, form)))):
                        real = functools.partial(convert, tools=tools, form=form)
                        return self._prompt(request, lambda messages: write(adapt(real(messages))), opened)  # noqa: B023
                except InfsError:
                    raise
                except Exception as error:  # a template may raise anything
                    failure = failure or error
        raise InvalidRequest(_refusal(failure), param="messages") from failure

    def _ways(self, request: ChatCompletionRequest, opened: bool, media: Media) -> list[Write]:
        """The ways to have a conversation written: media marked by the template, if it can, or within the texts."""

        def write(conversation: Conversation) -> str:
            return self._write(conversation, request, opened)

        if media.all and all(medium.kind in self.marks for medium in media.all):
            return [with_marks(write, media, self.marks), write]
        return [write]

    def _prompt(self, request: ChatCompletionRequest, write: Callable[[list[Message]], str], opened: bool) -> str:
        messages = list(request.messages)
        if not (opened and request.continue_final_message):
            return write(messages)
        # The prompt has to end where the message ends, whatever the template writes behind a message.
        marker = _marker(messages)
        messages[-1] = msgspec.structs.replace(messages[-1], content=messages[-1].text + marker)
        prompt, found, _ = write(messages).rpartition(marker)
        if not found:
            raise ValueError("the message to be continued is not in the prompt as it is")
        return prompt

    def _write(self, conversation: Conversation, request: ChatCompletionRequest, opened: bool) -> str:
        opened = opened and not request.continue_final_message
        if self.source is None:
            return _lines(conversation, opened)
        from infs.chat.sandbox import render

        return render(
            self._template,
            {
                **request.template_options,
                **self._tokens,
                "messages": conversation.messages,
                "tools": conversation.tools or None,
                "add_generation_prompt": opened,
            },
        )


def _check(request: ChatCompletionRequest) -> None:
    check_tools(request)
    for name in request.template_options:
        if name in RESERVED:
            raise InvalidRequest(f"template_options cannot set {name!r}.", param=f"template_options.{name}")
    last = request.messages[-1]
    if request.continue_final_message and (last.role != "assistant" or last.tool_calls):
        raise InvalidRequest(
            "continue_final_message needs a last message of the assistant, without tool calls.",
            param="continue_final_message",
        )


def _marker(messages: Sequence[Message]) -> str:
    """A text that is in none of `messages`."""
    marker = "infsmarker"
    while any(marker in message.text for message in messages):
        marker += "x"
    return marker


def _lines(conversation: Conversation, opened: bool) -> str:
    lines = [f"{message['role']}: {message['content'] or ''}" for message in conversation.messages]
    return "\n".join([*lines, "assistant:"] if opened else lines)


def _refusal(failure: Exception | None) -> str:
    if failure is None:
        return "The model's chat template leaves out some of these messages, in whatever form they are given."
    return f"The model's chat template does not take these messages: {failure or type(failure).__name__}"

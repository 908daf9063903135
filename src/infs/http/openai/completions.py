"""``/v1/completions``: texts continued."""

from __future__ import annotations

from collections import defaultdict

from starlette.requests import Request
from starlette.responses import Response

from infs.errors import InvalidRequest
from infs.http.endpoint import Operation
from infs.http.openai import answers
from infs.http.openai.answers import Completion
from infs.http.openai.bodies import MAX_PROMPTS, CompletionBody
from infs.http.openai.completing import Job, complete
from infs.http.openai.inputs import split_inputs
from infs.http.openai.intake import make, read
from infs.http.openai.logprobs import CompletionTokens
from infs.http.openai.options import generation_options
from infs.http.service import Service
from infs.types import CompletionChoice, Delta, FinishReason, TextCompletionRequest, TextCompletionResult


async def completions(service: Service, request: Request) -> Response:
    """Answer ``POST /v1/completions``."""
    body = await read(service, request, CompletionBody)
    return await complete(service, request, body, _job(body), CompletionForm())


def _job(body: CompletionBody) -> Job[TextCompletionResult]:
    options, names = generation_options(body)
    prompts = split_inputs(body.prompt, "prompt")
    if len(prompts) > MAX_PROMPTS:
        raise InvalidRequest(f"{len(prompts)} prompts are more than the {MAX_PROMPTS} of one request.", param="prompt")
    _check_best_of(body)
    given = {"suffix": body.suffix, "echo": body.echo, "best_of": body.best_of, "logprobs": body.logprobs}
    options |= {name: value for name, value in given.items() if value is not None}
    if len(prompts) > 1:
        options.setdefault("n", 1)  # the numbers of the choices must be known, whatever the model's default is
    requests = [make(TextCompletionRequest, names, model=body.model, prompt=prompt, **options) for prompt in prompts]
    return Job(requests=requests, n=options.get("n", 1), names=names)


def _check_best_of(body: CompletionBody) -> None:
    if body.best_of is None:
        return
    if body.best_of < (body.n or 1):
        raise InvalidRequest("best_of must be at least n: it is what the n are chosen of.", param="best_of")
    if body.stream and body.best_of > 1:
        raise InvalidRequest("best_of cannot be streamed: the best is known at the end.", param="best_of")


class CompletionForm:
    """Text completions, as this API writes them."""

    prefix = "cmpl"
    answer = Completion
    chunk = Completion

    def __init__(self) -> None:
        self._tokens: defaultdict[int, CompletionTokens] = defaultdict(CompletionTokens)

    def choices(self, first: int, result: TextCompletionResult) -> list[answers.CompletionChoice]:
        """The choices of a result."""
        return [self._choice(first + choice.index, choice) for choice in result.choices]

    def _choice(self, index: int, choice: CompletionChoice) -> answers.CompletionChoice:
        return answers.CompletionChoice(
            index=index,
            text=choice.text,
            logprobs=None if choice.logprobs is None else CompletionTokens().add(choice.logprobs),
            finish_reason=choice.finish_reason,
        )

    def opening(self, index: int, delta: Delta) -> None:
        """Nothing."""

    def piece(self, index: int, delta: Delta) -> answers.CompletionChoice | None:
        """The new text."""
        if not delta.text and not delta.logprobs:
            return None
        logprobs = self._tokens[index].add(delta.logprobs) if delta.logprobs else None
        return answers.CompletionChoice(index=index, text=delta.text, logprobs=logprobs)

    def closing(self, index: int, reason: FinishReason) -> answers.CompletionChoice:
        """The end, with no text."""
        return answers.CompletionChoice(index=index, text="", finish_reason=reason)

    def deltas(self, result: TextCompletionResult) -> list[Delta]:
        """Each choice in one piece."""
        return [
            Delta(
                index=choice.index,
                text=choice.text,
                logprobs=choice.logprobs or [],
                finish_reason=choice.finish_reason,
            )
            for choice in result.choices
        ]


OPERATION = Operation(
    method="POST",
    path="/completions",
    summary="Continue a text",
    handler=completions,
    body=CompletionBody,
    answer=Completion,
    chunk=Completion,
)

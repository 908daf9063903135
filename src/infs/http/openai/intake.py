"""Bodies as they come in: read, checked, and turned into checked requests; parameters refused, with the reason."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from starlette.requests import Request

from infs.errors import InvalidRequest, Unsupported
from infs.http.errors import details
from infs.http.openai.bodies import Body, ChatBody, CompletionBody
from infs.http.openai.names import Names, renamed
from infs.http.reading import check_names, nearest, parse_object, read_body, to_struct
from infs.http.service import Service
from infs.types import Request as Asked
from infs.types import validate

log = logging.getLogger("infs.http")

B = TypeVar("B", bound=Body)
A = TypeVar("A", bound=Asked[Any])

LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")

# Parameters of which only these values can be honoured, and why.
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "store": ((False,), "Completions are not stored."),
    "service_tier": (("auto", "default"), "There is one tier of service: 'default'."),
    "modalities": ((["text"],), "Models answer in text."),
    "verbosity": (("medium",), "Models have no setting of verbosity; say in a message how long the answer should be."),
    "prompt_cache_retention": (
        (),
        "Where prompts are cached, and for how long, is said by the configuration of the model: in memory, and on disk "
        "too unless options.disk_cache is 0.",
    ),
    "prompt_cache_options": ((), "Prompts are cached on their own; there is nothing to set."),
    "audio": ((), "Models answer in text."),
    "prediction": ((), "Predicted outputs are not supported."),
    "moderation": ((), "There is no moderation."),
    "web_search_options": ((), "There is no web search."),
    "functions": ((), "Functions are the form before tools; send them in 'tools'."),
    "function_call": ((), "This is the form before 'tool_choice'; use that."),
    "timings": ((), "Timings are not reported."),
    "timings_per_token": ((), "Timings are not reported."),
}

CHAT = frozenset(ChatBody.__struct_fields__) - frozenset(CompletionBody.__struct_fields__)


async def read(service: Service, request: Request, kind: type[B]) -> B:
    """The body of `request` as `kind`.

    Raises:
        InvalidRequest: something in it is wrong.
        Unsupported: it asks for something that cannot be had.
    """
    sent = parse_object(await read_body(request, service.settings.max_body))
    fields = {name: value for name, value in sent.items() if value is not None}
    _check_model(fields.get("model"))
    details(request.scope)["model"] = fields["model"]
    _refuse(fields)
    _check_chat(fields, kind)
    check_names(fields, kind)
    body = to_struct(fields, kind)
    labels = {name: fields[name] for name in LABELS if name in fields}
    if labels:
        log.debug("%s %r", request.scope["path"], labels)
    return body


def _check_model(model: Any) -> None:
    if model is None or model == "":
        raise InvalidRequest("You must provide a model parameter; GET /v1/models lists the models.", param="model")
    if not isinstance(model, str):
        raise InvalidRequest("model must be the id of a model, a string.", param="model")


def _refuse(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        allowed, reason = ONLY.get(name, ((value,), ""))
        if any(type(value) is type(one) and value == one for one in allowed):
            continue
        hint = f" Leave {name!r} out" + (f", or set it to {allowed[0]!r}." if allowed else ".")
        raise Unsupported(reason + hint, param=name)


def _check_chat(fields: dict[str, Any], kind: type[Body]) -> None:
    """Raise `InvalidRequest` for a parameter that only chats have."""
    known = kind.__struct_fields__
    for name in fields:
        if name in CHAT and name not in known:
            hint = nearest(name, known) or " Leave it out."
            raise InvalidRequest(f"{name!r} is a parameter of chat completions.{hint}", param=name)


def make(kind: type[A], names: Names, **fields: Any) -> A:
    """A checked request of the vocabulary; errors name the fields of the body."""
    with renamed(names):
        return validate(kind(**fields))

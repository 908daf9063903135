"""The Jinja environment that chat templates run in.

A template comes with a model file from anywhere, so it runs sandboxed: no attribute that starts with an
underscore, nothing changed in place, loops and output bounded. What is not bounded is memory taken by filters
that pad text, and by doubling a text again and again: a template that means harm can still end its own worker.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from infs.errors import LoadFailed, Unsupported

MAX_STEPS = 5_000_000
MAX_OUTPUT = 128 * 1024 * 1024
MAX_EXPONENT = 64

# No template can have a variable with a space in its name, so none can change this one.
_BUDGET = "loop budget"


class _Budget:
    """Counts the turns of all loops in one rendering."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Unsupported(f"The chat template was stopped after {MAX_STEPS} turns of its loops.", param="messages")


@pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget: _Budget = context[_BUDGET]
    for value in values:
        budget.spend()
        yield value


class _GenerationTag(Extension):
    """``{% generation %}`` marks what a model is trained on; it changes nothing in a prompt."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it like this

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a bound on what one multiplication or power can make."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(right, int | float) and abs(right) > MAX_EXPONENT:
            raise SecurityError(f"a power with the exponent {right} is too large")
        if operator == "*" and _product_size(left, right) > MAX_OUTPUT:
            raise SecurityError("a repetition is too large")
        return super().call_binop(context, operator, left, right)


def _product_size(left: Any, right: Any) -> int:
    if isinstance(left, int) and not isinstance(right, int):
        left, right = right, left
    return len(left) * right if isinstance(left, str | list | tuple) and isinstance(right, int) else 0


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as templates expect it: nothing escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _environment() -> Environment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
    environment.filters["tojson"] = _tojson
    environment.filters[_counted.__name__] = _counted
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    del environment.globals["lipsum"]
    return environment


def compile_template(source: str) -> Template:
    """`source` as a template for `render`.

    Raises:
        LoadFailed: it is no Jinja; the message has the line.
    """
    environment = _environment()
    try:
        tree = environment.parse(source)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, _counted.__name__, [], [], None, None, lineno=loop.iter.lineno)
        code = environment.compile(tree)
    except TemplateSyntaxError as error:
        raise LoadFailed(
            f"The chat template is not valid Jinja: {error.message} (line {error.lineno}).", param="chat_template"
        ) from error
    except RecursionError as error:
        raise LoadFailed("The chat template is nested too deeply.", param="chat_template") from error
    return Template.from_code(environment, code, environment.make_globals(None))


def render(template: Template, variables: Mapping[str, Any]) -> str:
    """What `template` makes of `variables`; whatever the template raises comes out as it is.

    Raises:
        Unsupported: the template loops for too long, or writes too much.
    """
    pieces: list[str] = []
    size = 0
    for piece in template.generate({**variables, _BUDGET: _Budget()}):
        size += len(piece)
        if size > MAX_OUTPUT:
            raise Unsupported(f"The chat template writes more than {MAX_OUTPUT} characters.", param="messages")
        pieces.append(piece)
    return "".join(pieces)

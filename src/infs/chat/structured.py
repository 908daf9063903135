"""The grammar that one request puts on its output: from its constraint, its tools, or both."""

from __future__ import annotations

import json
from typing import Any

from infs.chat.constraints import after_reasoning, checked, compile_constraint, lark_grammar
from infs.chat.dialects.base import Dialect
from infs.chat.tools import check_tools, offered_tools, required_tools
from infs.errors import Unsupported
from infs.types import UNSET, ChatCompletionRequest, Constraint


def output_grammar(
    request: ChatCompletionRequest, dialect: Dialect, *, thinking: bool = False, tokenizer: Any = None
) -> str | None:
    """A grammar for ``LLMatcher``, or ``None`` where the model may write what it likes.

    A required call is enforced with its arguments. Where the model is free to call or not, a call is enforced to
    be a valid one if any tool is `strict`, and a constraint holds for an answer that is not a call.

    Args:
        thinking: the prompt opens a ``<think>`` block; what is in it is free.
        tokenizer: an ``LLTokenizer``, to check special tokens in a grammar of the request's own.

    Raises:
        InvalidRequest: `tool_choice`, a schema or the grammar is wrong.
        Unsupported: a schema cannot be enforced, or the constraint cannot go with the tools.
    """
    check_tools(request)
    constraint = None if request.constraint is UNSET else request.constraint
    if required_tools(request):
        if constraint is not None:
            raise Unsupported(
                "A constraint on the answer cannot be combined with a required tool call.", param="tool_choice"
            )
        grammar = tool_constraint(request, dialect)
    elif constraint is not None and offered_tools(request):
        grammar = _either(request, constraint, dialect, tokenizer)
    else:
        grammar = compile_constraint(constraint, tokenizer=tokenizer) or tool_constraint(request, dialect)
    return after_reasoning(grammar) if grammar is not None and thinking else grammar


def tool_constraint(request: ChatCompletionRequest, dialect: Dialect) -> str | None:
    """The grammar that the tools of `request` ask for alone; ``None`` where output is free."""
    if required := required_tools(request):
        lark = dialect.grammar(required, "some" if request.parallel_tool_calls else "one")
    elif any(tool.strict for tool in offered_tools(request)):
        lark = dialect.grammar(offered_tools(request), "free")
    else:
        return None
    return checked(lark_grammar(f"start: calls\n{lark}"), param="tools")


def _either(request: ChatCompletionRequest, constraint: Constraint, dialect: Dialect, tokenizer: Any) -> str:
    """A grammar for calls, or an answer that meets `constraint`."""
    if not dialect.tells_from_json:
        raise Unsupported(
            "With this model, a constraint on the answer cannot be combined with tools, because its calls look like "
            'answers. Send the request without tools, or with tool_choice "none".',
            param="tools",
        )
    answer = compile_constraint(constraint, tokenizer=tokenizer)
    assert answer is not None
    first, *rest = json.loads(answer)["grammars"]
    lark = dialect.grammar(offered_tools(request), "some" if request.parallel_tool_calls else "one")
    grammars = [{"lark_grammar": f"start: @answer | calls\n{lark}"}, {**first, "name": "answer"}, *rest]
    return checked(json.dumps({"grammars": grammars}), param="tools", tokenizer=tokenizer)

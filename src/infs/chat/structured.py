"""The rule that one request puts on its output: from its constraint, its tools, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from infs.chat.constraints import checked, compile_constraint, lark_grammar
from infs.chat.dialects.base import Dialect, Trigger, parameters
from infs.chat.dialects.lark import Lark
from infs.chat.parser import THINK, Thinking
from infs.chat.tools import check_tools, offered_tools, required_tools
from infs.errors import RequestError, Unsupported
from infs.types import UNSET, ChatCompletionRequest, Constraint, Tool


@dataclass(frozen=True)
class OutputRule:
    """What an output must be like.

    Attributes:
        grammar: for ``LLMatcher``. Without `triggers` it holds from the first token. With them, everything is allowed
            until the output comes to end in one of them, outside of reasoning (`triggers.TriggerWatch` finds out);
            from there on `grammar` holds, for the trigger's `lead` and all that follows the trigger.
        triggers: texts that begin a call.
        thinking: the marks of reasoning, in which no trigger counts.
        thought: the output begins within reasoning.
    """

    grammar: str
    triggers: tuple[Trigger, ...] = ()
    thinking: Thinking = THINK
    thought: bool = False


class _Writer:
    """Writes the grammars for one request.

    Args:
        thinking: the prompt has opened the reasoning.
    """

    def __init__(
        self, dialect: Dialect, *, thinking: bool, tokenizer: Any, controls: Mapping[str, int] | None, parallel: bool
    ) -> None:
        self._dialect = dialect
        self._thinking = thinking
        self._tokenizer = tokenizer
        self._controls = controls
        self._parallel = parallel

    def required(self, tools: Sequence[Tool]) -> OutputRule:
        """Calls and nothing else."""
        lark = self._dialect.required(tools, parallel=self._parallel, controls=self._controls)
        return self._whole(self._checked(lark_grammar(lark)))

    def offered(self, tools: Sequence[Tool]) -> OutputRule:
        """Any text, in which calls are calls of the tools."""
        tools = [tool if tool.strict else _forgiving(tool) for tool in tools]
        lark = self._dialect.rest(tools, parallel=self._parallel, controls=self._controls)
        return OutputRule(
            self._checked(lark_grammar(lark)), self._dialect.triggers(tools), self._dialect.thinking, self._thinking
        )

    def constraint(self, constraint: Constraint) -> OutputRule:
        """An answer that meets `constraint`."""
        answer = compile_constraint(constraint, tokenizer=self._tokenizer)
        assert answer is not None
        if self._dialect.answer:
            lark = Lark(self._controls)
            answer = _joined(lark.grammar(f"{lark.text(self._dialect.answer)} @said"), said=answer)
        return self._whole(answer)

    def either(self, tools: Sequence[Tool], constraint: Constraint) -> OutputRule:
        """Calls, or an answer that meets `constraint`."""
        if not self._dialect.tells_from_json:
            raise Unsupported(
                "With this model, a constraint on the answer cannot be combined with tools, because its calls look "
                'like answers. Send the request without tools, or with tool_choice "none".',
                param="tools",
            )
        answer = compile_constraint(constraint, tokenizer=self._tokenizer)
        assert answer is not None
        calls = lark_grammar(self._dialect.required(tools, parallel=self._parallel, controls=self._controls))
        lark = Lark(self._controls)
        head = lark.text(self._dialect.answer) if self._dialect.answer else ""
        grammar = _joined(lark.grammar(f"{head} @said | @calls"), said=answer, calls=calls)
        return self._whole(self._checked(grammar))

    def _checked(self, grammar: str) -> str:
        return checked(grammar, param="tools", tokenizer=self._tokenizer)

    def _whole(self, grammar: str) -> OutputRule:
        return OutputRule(_thinking_first(grammar, self._dialect, self._thinking, self._controls))


def output_rule(
    request: ChatCompletionRequest,
    dialect: Dialect,
    *,
    thinking: bool = False,
    tokenizer: Any = None,
    controls: Mapping[str, int] | None = None,
) -> OutputRule | None:
    """The rule for the output of `request`; ``None`` where the model may write what it likes.

    A required call is enforced with its arguments from the first token. Where the model is free to call or not, a
    call is enforced from its first mark on; the arguments as far as the schema can be enforced, those of `strict`
    tools exactly. A constraint holds for an answer that is not a call.

    Args:
        thinking: the prompt opens the reasoning; what is in it is free.
        tokenizer: an ``LLTokenizer``, to check special tokens in a grammar of the request's own.
        controls: ids of those of `dialect.specials` that are control tokens of the vocabulary.

    Raises:
        InvalidRequest: `tool_choice`, a schema or the grammar is wrong.
        Unsupported: a schema cannot be enforced, or the constraint cannot go with the tools.
    """
    check_tools(request)
    constraint = None if request.constraint is UNSET else request.constraint
    write = _Writer(
        dialect,
        thinking=thinking,
        tokenizer=tokenizer,
        controls=controls,
        parallel=request.parallel_tool_calls,
    )
    if required := required_tools(request):
        if constraint is not None:
            raise Unsupported(
                "A constraint on the answer cannot be combined with a required tool call.", param="tool_choice"
            )
        return write.required(required)
    offered = offered_tools(request)
    if constraint is not None:
        return write.either(offered, constraint) if offered else write.constraint(constraint)
    return write.offered(offered) if offered else None


def _thinking_first(grammar: str, dialect: Dialect, opened: bool, controls: Mapping[str, int] | None) -> str:
    """`grammar` behind the reasoning that the prompt has opened, or the model opens by itself."""
    marks = dialect.thinking
    if not (opened or marks.own):
        return grammar
    lark = Lark(controls)
    after = f"({lark.text(marks.after)})?" if marks.after else ""
    thought = f"{lark.until(marks.close)} /\\s{{0,4}}/ {after}"
    if not opened:
        thought = f"({lark.text(marks.open)} {thought})?"
    return _joined(lark.grammar(f"{thought} @output"), output=grammar)


def _forgiving(tool: Tool) -> Tool:
    """`tool`, taking any object if its schema is wrong: nobody has asked to have that enforced."""
    try:
        parameters(tool)
    except RequestError:
        return msgspec.structs.replace(tool, parameters={"type": "object", "additionalProperties": True})
    return tool


def _joined(lark: str, **named: str) -> str:
    """A Lark grammar that refers to others by names, together with them."""
    grammars: list[dict[str, Any]] = [{"lark_grammar": lark}]
    for name, grammar in named.items():
        first, *rest = json.loads(grammar)["grammars"]
        grammars += [{**first, "name": name}, *rest]
    return json.dumps({"grammars": grammars})

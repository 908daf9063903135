"""Grammars for llguidance, from what a request demands of its output."""

from __future__ import annotations

import json
from typing import Any

from infs.chat.schema import enforceable
from infs.errors import InvalidRequest
from infs.types import ChoiceConstraint, Constraint, GrammarConstraint, JsonConstraint, RegexConstraint

# Long enough to say what is wrong; llguidance quotes the whole grammar.
_MAX_REASON = 600


def compile_constraint(constraint: Constraint | None, *, tokenizer: Any = None) -> str | None:
    """`constraint` as a grammar for ``LLMatcher``; ``None`` for ``None``.

    Args:
        tokenizer: an ``LLTokenizer``, to check the special tokens that a Lark grammar may name.

    Raises:
        Unsupported: a keyword of a JSON schema cannot be enforced.
        InvalidRequest: the schema, regular expression or grammar is wrong.
    """
    if constraint is None:
        return None
    param, grammar = _grammar(constraint)
    return checked(grammar, param=param, tokenizer=tokenizer)


def checked(grammar: str, *, param: str, tokenizer: Any = None) -> str:
    """The same grammar, once llguidance takes it.

    Raises:
        InvalidRequest: with llguidance's reason.
    """
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer)
    if failed:
        raise InvalidRequest(f"The {param} cannot be used: {_shorten(messages[0])}", param=param)
    return grammar


def lark_grammar(text: str) -> str:
    """A Lark grammar as a grammar for ``LLMatcher``."""
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def literal(text: str) -> str:
    """`text` as a literal of a Lark grammar."""
    # JSON leaves this one control character as it is, and Lark does not take it.
    return json.dumps(text).replace("\x7f", "\\u007f")


def after_reasoning(grammar: str) -> str:
    """A grammar for free text up to ``</think>``, and then for what `grammar` demands."""
    first, *rest = json.loads(grammar)["grammars"]
    thought = "start: thought /\\s{0,4}/ @answer\nthought[lazy]: /(?s:.*)<\\/think>/\n"
    return json.dumps({"grammars": [{"lark_grammar": thought}, {**first, "name": "answer"}, *rest]})


def _grammar(constraint: Constraint) -> tuple[str, str]:
    """The field that errors name, and the grammar, not yet checked."""
    match constraint:
        case JsonConstraint():
            schema = {"type": "object"} if constraint.schema is None else constraint.schema
            ready = enforceable(schema, param="response_format")
            return "response_format", json.dumps({"grammars": [{"json_schema": ready}]})
        case RegexConstraint():
            from llguidance import LLMatcher

            return "regex", LLMatcher.grammar_from_regex(constraint.pattern)
        case ChoiceConstraint():
            options = " | ".join(literal(option) for option in constraint.options)
            return "choice", lark_grammar(f"start: {options}")
        case GrammarConstraint():
            text = constraint.grammar if constraint.syntax == "lark" else _from_gbnf(constraint.grammar)
            return "grammar", lark_grammar(text)


def _from_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # its errors have no common class
        raise InvalidRequest(f"The grammar is not valid GBNF: {_shorten(str(error))}", param="grammar") from error


def _shorten(reason: str) -> str:
    reason = reason.strip()
    return reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + " ..."

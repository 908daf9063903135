"""Grammars for llguidance, from what a request demands of its output."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from infs.chat.gbnf_lark import lark_from_gbnf
from infs.chat.patterns import check_repetitions
from infs.chat.schema import enforceable
from infs.errors import ConfigError, InvalidRequest, RequestError
from infs.types import (
    ChoiceConstraint,
    Constraint,
    GrammarConstraint,
    JsonConstraint,
    NamedConstraint,
    OwnConstraint,
    RegexConstraint,
    own_constraint,
)

# Long enough to say what is wrong; llguidance quotes the whole grammar.
_MAX_REASON = 600
_ENDS = "beginning or end"
_END = 256


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
    checked(grammar, param=param, tokenizer=tokenizer)
    if tokenizer is not None or not isinstance(constraint, GrammarConstraint):
        # Only a grammar may name tokens, which nothing but the model's own tokenizer knows.
        _begun(grammar, param, tokenizer)
    return grammar


def checked(grammar: str, *, param: str, tokenizer: Any = None) -> str:
    """The same grammar, once llguidance takes it.

    Raises:
        InvalidRequest: with llguidance's reason.
    """
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer)
    if failed:
        raise InvalidRequest(f"The {param} cannot be used: {_shorten(_explained(messages[0]))}", param=param)
    return grammar


def check_grammars(grammars: Mapping[str, OwnConstraint | str], *, tokenizer: Any = None) -> None:
    """Compile the grammars of a model's configuration, so that a wrong one is known when the model is loaded.

    Raises:
        ConfigError: naming the grammar, with the reason.
    """
    for name, grammar in grammars.items():
        try:
            compile_constraint(own_constraint(grammar), tokenizer=tokenizer)
        except RequestError as error:
            raise ConfigError(f"grammars.{name}: {error.message}", param=f"grammars.{name}") from error


def lark_grammar(text: str) -> str:
    """A Lark grammar as a grammar for ``LLMatcher``."""
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def literal(text: str) -> str:
    """`text` as a literal of a Lark grammar."""
    # JSON leaves this one control character as it is, and Lark does not take it.
    return json.dumps(text).replace("\x7f", "\\u007f")


def _grammar(constraint: Constraint) -> tuple[str, str]:
    """The field that errors name, and the grammar, not yet checked."""
    match constraint:
        case JsonConstraint():
            return "response_format", json.dumps({"grammars": [{"json_schema": _schema(constraint)}]})
        case RegexConstraint():
            from llguidance import LLMatcher

            check_repetitions(constraint.pattern)
            return "regex", LLMatcher.grammar_from_regex(constraint.pattern)
        case ChoiceConstraint():
            # One terminal: many alternatives of a rule take long, and one that begins like another may hide it.
            options = " | ".join(map(literal, dict.fromkeys(constraint.options)))
            return "choice", lark_grammar(f"start: CHOICE\nCHOICE: {options}")
        case GrammarConstraint():
            text = constraint.grammar if constraint.syntax == "lark" else lark_from_gbnf(constraint.grammar)
            return "grammar", lark_grammar(text)
        case NamedConstraint():
            raise InvalidRequest(f"The grammar {constraint.name!r} is not configured.", param="grammar")


def _schema(constraint: JsonConstraint) -> dict[str, Any]:
    schema = {"type": "object"} if constraint.schema is None else constraint.schema
    whitespace = constraint.whitespace or ("flexible" if constraint.schema is None else "compact")
    return enforceable(schema, param="response_format", whitespace=whitespace)


def _explained(reason: str) -> str:
    """llguidance's reason, in the words of those who write regular expressions."""
    if found := re.search(r"lookarounds not supported yet; (\w+)", reason):
        name = (
            "a word boundary (\\b)" if found[1].startswith("Word") else f"an anchor (^ or $) that is not at its {_ENDS}"
        )
        return f"{name} cannot be enforced"
    if "look-around" in reason:
        return f"looking ahead or behind cannot be enforced: {reason}"
    return reason


def _begun(grammar: str, param: str, tokenizer: Any) -> None:
    """Raise `InvalidRequest` where not even the first token can be told.

    That is a grammar that never comes to an end of its rules, or one too big to work with.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer or _byte_tokenizer(), grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        reason = matcher.get_error().partition("<state>")[0]
        if "too many expressions" in reason:
            reason = "it is too big"
        elif not reason.strip() or "NoExtension" in reason:
            reason = "nothing can fit it"
        raise InvalidRequest(f"The {param} cannot be used: {_shorten(reason)}", param=param)


def _byte_tokenizer() -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=_END + 1, eos_token=_END, slices=[])


class _Bytes:
    """The smallest vocabulary that writes everything: the bytes, and an end."""

    eos_token_id = _END
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(_END)), b"\xff<end>")
    special_token_ids = (_END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _shorten(reason: str) -> str:
    reason = reason.strip()
    return reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + " ..."

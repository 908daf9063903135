"""Calls in the syntax of Python: ``name(a=1, b="x")``, one or more, printed or not, in a list or not."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Collection, Iterator


def calls_in(source: str, names: Collection[str]) -> list[tuple[str, str]]:
    """Names and arguments, as JSON text, of the calls that `source` consists of.

    Empty where anything in it is no call of one of `names` with keyword arguments that are literals.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strings with a backslash that means nothing
            body = ast.parse(source.strip()).body
        return [_call(node, names) for statement in body for node in _nodes(statement)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []


def _nodes(statement: ast.stmt) -> Iterator[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise TypeError("a statement")
    value = statement.value
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print":
        (value,) = value.args
    yield from value.elts if isinstance(value, ast.List | ast.Tuple) else [value]


def _call(node: ast.expr, names: Collection[str]) -> tuple[str, str]:
    if not isinstance(node, ast.Call) or node.args or ast.unparse(node.func) not in names:
        raise ValueError("no call of a tool")
    arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
    if len(arguments) != len(node.keywords):
        raise ValueError("arguments that are no literals")
    return ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False)

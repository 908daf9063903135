"""Prompts and inputs: a text, texts, a list of token ids or several of those, in one field."""

from __future__ import annotations

from infs.errors import InvalidRequest


def split_inputs(given: str | list[str | int | list[int]], param: str) -> list[str | list[int]]:
    """The single inputs in `given`, at least one.

    Raises:
        InvalidRequest: none, or token ids beside texts.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidRequest(f"{param} is an empty list.", param=param)
    tokens = [item for item in given if isinstance(item, int)]
    if len(tokens) == len(given):
        return [tokens]
    if tokens:
        raise InvalidRequest(f"{param} mixes token ids with texts or lists; put them into lists.", param=param)
    return [item for item in given if not isinstance(item, int)]

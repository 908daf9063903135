"""Amounts of memory as people write them: ``8000000000``, ``"8GB"``, ``"7.5 GiB"``, ``"80%"``."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_AMOUNT = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]i?)?b?", re.IGNORECASE)
_SHARE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*%")


def parse_size(value: int | str, whole: int) -> int:
    """`value` in bytes; a share (``"80%"``) is one of `whole` bytes.

    Raises:
        ValueError: it is no amount, or more than all of it.
    """
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"{value} is below zero")
        return value
    if share := _SHARE.fullmatch(value.strip()):
        if float(share["number"]) > 100:
            raise ValueError(f"{value!r} is more than all of it")
        return int(whole * float(share["number"]) / 100)
    if amount := _AMOUNT.fullmatch(value.strip()):
        return int(float(amount["number"]) * _UNITS[(amount["unit"] or "").lower()])
    raise ValueError(f'{value!r} is no amount of memory; write bytes, "8GB", "7.5GiB" or "80%"')


def check_size(value: int | str) -> None:
    """Raise `ValueError` for what `parse_size` refuses."""
    parse_size(value, 1)

"""Addresses that servers listen on, and those that clients find them at."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(url: str) -> bool:
    """Whether `url` is on this machine by its name."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def reachable_url(host: str, port: int) -> str:
    """Where a client on this machine finds a server that listens on `host` and `port`."""
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

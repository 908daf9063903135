"""The HTTP edge: an ASGI application over an inference server."""

from infs.http.app import create_app

__all__ = ["create_app"]

"""The command ``infs``: composes configuration, server, HTTP and terminal. Nothing else imports it.

Modules of commands import little, so that ``infs --help`` is quick; what is heavy is imported when a command runs.
"""

from infs.cli.commands import main

__all__ = ["main"]

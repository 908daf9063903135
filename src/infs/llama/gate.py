"""Who is using a model: so that nothing is freed under somebody's feet."""

from __future__ import annotations

import threading

from infs.errors import ServerClosed


def closed() -> ServerClosed:
    """What everybody hears who asks a closed model for something."""
    return ServerClosed("The model was closed: a closed Llama cannot be used any more.")


class Gate:
    """Lets threads in until it is shut, and knows when all are out. Not reentrant: who is in must not enter again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._open = True

    def __enter__(self) -> None:
        """Raises `ServerClosed` once it is shut."""
        with self._changed:
            if not self._open:
                raise closed()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @property
    def open(self) -> bool:
        """Whether it lets anybody in."""
        return self._open

    def shut(self) -> bool:
        """Let nobody in any more; false if that was so already."""
        with self._changed:
            was, self._open = self._open, False
            return was

    def wait(self) -> None:
        """Wait until all are out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside)

"""Several pieces of work side by side, as in `infs.tasks`."""

from infs.tasks import end, interleave, together

__all__ = ["end", "interleave", "together"]

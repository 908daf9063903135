"""A file that is not yet complete, and the note beside it that says what is in it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from infs.store.disk import read_json, write_text
from infs.store.segments import Ranges


class _Parts(msgspec.Struct, frozen=True):
    """The part of a note that a download over several connections leaves."""

    size: int
    done: list[tuple[int, int]]


class Partial:
    """The file `path`, in one of two forms.

    Without ``done`` in the note it holds the beginning of the content, up to its size; so it does without a note, where
    the content is `fixed`. Else ``done`` says which ranges are there, out of ``size`` bytes.

    Args:
        fixed: the content never changes, so what is there always fits to it.
    """

    def __init__(self, path: Path, fixed: bool) -> None:
        self.path = path
        self._fixed = fixed
        self._note_path = path.with_name(f"{path.name}.json")

    def kept(self, size: int | None) -> Ranges:
        """What can be kept of it, for a file of `size` bytes where that is known."""
        there = self._size()
        if not self._fixed and self.validator is None:
            return Ranges()
        ranges, total = self._noted()
        if ranges is not None:
            return ranges.below(there) if size in (None, total) else Ranges()
        return Ranges([(0, there)]) if size is None or there <= size else Ranges()

    @property
    def total(self) -> int | None:
        """The size of the whole file, where the note says it."""
        return self._noted()[1]

    @property
    def etag(self) -> str | None:
        """What the content was called when it was begun."""
        etag = read_json(self._note_path).get("etag")
        return etag if isinstance(etag, str) else None

    @property
    def validator(self) -> str | None:
        """What tells that the content is still the same: a strong ETag, or the time of the last change."""
        if is_strong(self.etag):
            return self.etag
        modified = read_json(self._note_path).get("modified")
        return modified if isinstance(modified, str) else None

    def begin(self, validators: dict[str, str | None] | None) -> None:
        """Start anew, with what tells this content from another, where something does."""
        self.discard()
        if validators is not None:
            write_text(self._note_path, json.dumps(validators))

    def save(self, done: Ranges, size: int) -> None:
        """Note which ranges are there.

        Raises:
            OSError
        """
        write_text(self._note_path, json.dumps({**self._validators(), "size": size, "done": list(done)}))

    def sync(self) -> None:
        """Have the disk hold what was written.

        Raises:
            OSError
        """
        with self.path.open("r+b", buffering=0) as file:
            os.fsync(file.fileno())

    def cut(self, end: int) -> None:
        """Make it of the first form, with what lies below `end`, where it is of the other one.

        Raises:
            OSError
        """
        if self._noted()[0] is not None:
            os.truncate(self.path, end)
            write_text(self._note_path, json.dumps(self._validators()))

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self.finish()

    def finish(self) -> None:
        """Remove the note: the file is complete."""
        self._note_path.unlink(missing_ok=True)

    def _size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def _validators(self) -> dict[str, Any]:
        note = read_json(self._note_path)
        return {name: note[name] for name in ("etag", "modified") if name in note}

    def _noted(self) -> tuple[Ranges | None, int | None]:
        """The ranges and the size in the note, if it is one of that form; a damaged one has no ranges at all."""
        note = read_json(self._note_path)
        if "done" not in note:
            return None, None
        try:
            form = msgspec.convert(note, _Parts)
        except msgspec.ValidationError:
            return Ranges(), None
        sound = all(0 <= first <= end <= form.size for first, end in form.done)
        return Ranges(form.done if sound else ()), form.size


def is_strong(etag: str | None) -> bool:
    """Whether `etag` promises that not a byte is different."""
    return etag is not None and etag.startswith('"')


def arrived(path: Path) -> int:
    """How many bytes of a download lie in the partial file `path`, whoever is at work on it."""
    partial = Partial(path, fixed=True)
    return partial.kept(partial.total).size

"""Names of files in the cache that are readable, unique and possible on every system, and the parts of split models."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_LONGEST = 120
# More parts than any model has; a name that claims more is not believed.
_MOST_PARTS = 1000


def safe_name(name: str) -> str:
    """`name` without what some system forbids in the name of a file, at most 120 bytes long."""
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name))
    name = _shortened(name).rstrip(". ").lstrip(" ")
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    return name if name.strip("._") else "model"


def _shortened(name: str) -> str:
    """The first and the last part of `name`: the end tells the format and the number of a part."""
    if len(name.encode()) <= _LONGEST:
        return name
    end = name.encode()[-_LONGEST // 3 :].decode(errors="ignore")
    beginning = name.encode()[: _LONGEST - len(end.encode()) - 1].decode(errors="ignore")
    return f"{beginning}~{end}"


def cache_name(url: str) -> PurePosixPath:
    """Where the file of `url` lies below the folder of downloads: ``host-hash/name``.

    The hash is that of the whole URL, so two URLs never share a file; all parts of a split model share a folder,
    which is where engines look for them.
    """
    parts = urlsplit(url)
    name = unquote(parts.path, errors="replace").rpartition("/")[2]
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    split = _SPLIT.fullmatch(name)
    path = parts.path.rpartition("/")[0] + f"/{split['stem']}-{split['count']}" if split else parts.path
    digest = hashlib.sha256(f"{address}{path}?{parts.query}".encode()).hexdigest()[:12]
    return PurePosixPath(f"{safe_name(parts.hostname or 'host')}-{digest}", safe_name(name))


def part_names(name: str) -> list[str]:
    """The names of all parts of the split model that `name` is a part of, the first one first; else just `name`.

    `name` may have folders in front.
    """
    split = _SPLIT.fullmatch(name)
    if split is None or not 1 <= int(split["number"]) <= int(split["count"]) <= _MOST_PARTS:
        return [name]
    return [f"{split['stem']}-{number:05d}-of-{split['count']}.gguf" for number in range(1, int(split["count"]) + 1)]


def part_urls(url: str) -> list[str]:
    """The same for a URL, whose query goes with all parts."""
    parts = urlsplit(url)
    return [urlunsplit(parts._replace(path=path)) for path in part_names(parts.path)]

"""A process of its own that uses the context cache on disk; the tests run, limit and kill it.

    python tiers_process.py FOLDER LIMIT SEED COUNT [MODE]

It writes COUNT blocks (0: until it is killed) and reads some, and prints what came of it as JSON. MODE is ``full``,
where no file can become larger than 4 KiB, or ``nobody``, where the process has lost the rights of a superuser.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from random import Random

from infs.batching.tiers import Block, BlockId, DiskCache
from infs.batching.tiers.blocks import Tokens, encode, space_id


def made(seed: int) -> tuple[Block, bytes]:
    """The block with number `seed`, and its data, up to 64 KiB of which every byte depends on it."""
    random = Random(seed)
    tokens = [seed, *(random.randrange(100) for _ in range(random.randrange(50)))]
    size = random.randrange(1 << 16)
    data = hashlib.shake_128(b"%d" % seed).digest(size)
    return Tokens(space_id(f"space {seed % 3}"), encode(tokens)).block(random.randrange(len(tokens)), size), data


def right(block: Block, data: bytes, seeds: dict[BlockId, int]) -> bool:
    """Whether a block that was read is what `made` makes."""
    return (block, data) == made(seeds[block.id])


def limit_rights(mode: str) -> None:
    """Take from this process what `mode` says."""
    if sys.platform == "win32":
        raise SystemExit("there are no such limits on Windows")
    if mode == "full":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    elif os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def main(folder: str, limit: str, seed: str, count: str, mode: str = "") -> None:
    """Write and read, and say how it went."""
    if mode:
        limit_rights(mode)
    cache = DiskCache(Path(folder), int(limit), floor=0)
    random, wrong = Random(int(seed)), 0
    seeds: dict[BlockId, int] = {}
    print("begun", flush=True)
    while int(count) == 0 or len(seeds) < int(count):
        number = random.randrange(1000)
        block, data = made(number)
        seeds[block.id] = number
        cache.write(block, data)
        found = cache.read(random.choice(list(seeds)))
        wrong += found is not None and not right(*found, seeds)
        cache.refresh(space_id(f"space {number % 3}"))
    cache.tidy()
    counts = cache.counts()
    print(json.dumps({"wrong": wrong, **{name: getattr(counts, name) for name in counts.__struct_fields__}}))


if __name__ == "__main__":
    main(*sys.argv[1:])

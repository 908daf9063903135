"""From a model's source to verified files on this machine.

`source` understands what the configuration says, `hub` asks the hub, `transfer` moves the bytes, `hubcache` and
`names` say where they lie, and `store` puts these together. Nothing here is imported by a start that needs no
download, except what is small.
"""

from infs.store.progress import Report
from infs.store.store import Store
from infs.store.web import RetryPolicy

__all__ = ["Report", "RetryPolicy", "Store"]

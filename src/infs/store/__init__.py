"""From a model's source to verified files on this machine.

`source` understands what the configuration says, `rules` what models consist of, `finder` what is on this machine.
`hub` asks the hub, `downloads` and `transfer` move the bytes, `hubcache` and `names` say where they lie, and `store`
puts these together. `metadata` and `catalogue` tell what there is. Nothing here is imported by a start that needs no
download, except what is small.
"""

from infs.store.extras import with_extras
from infs.store.progress import Report
from infs.store.store import Fetched, Store, default_cache
from infs.store.web import RetryPolicy

__all__ = ["Fetched", "Report", "RetryPolicy", "Store", "default_cache", "with_extras"]

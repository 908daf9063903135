"""One process for each instance: `python -m infs.worker` hosts an engine, `client` speaks to it."""

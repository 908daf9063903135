"""``infs models``: the files of models, of the configuration and in the caches of this machine."""

"""Configuration: strict types, read from a file, the environment and flags.

Flags beat the environment, which beats the file. The file is TOML, YAML or JSON by its ending; without a name,
``infs.toml`` in the working directory is taken if there is one. ``INFS_SERVER__PORT=8000`` sets ``server.port``;
a value that starts with ``[`` or ``{`` is read as JSON. A key that nobody knows is an error that names the
nearest one that is known.
"""

from infs.config.checking import check_max_memory, check_types, limits_of, parse_config, parse_model
from infs.config.converting import check_keys, convert
from infs.config.defaults import check_defaults, typed_defaults, with_defaults
from infs.config.files import DEFAULT_FILE, read_file
from infs.config.kinds import (
    MODEL_ID,
    Config,
    DeviceConfig,
    HubConfig,
    LogConfig,
    MaxMemory,
    ModelConfig,
    Preload,
    ServerConfig,
    Size,
    TelemetryConfig,
    ToolConfig,
)
from infs.config.reading import (
    ENV_PREFIX,
    NOT_SETTINGS,
    Layers,
    find_file,
    load_config,
    merge,
    merge_layers,
    read_environ,
    read_layers,
)

__all__ = [
    "DEFAULT_FILE",
    "ENV_PREFIX",
    "MODEL_ID",
    "NOT_SETTINGS",
    "Config",
    "DeviceConfig",
    "HubConfig",
    "Layers",
    "LogConfig",
    "MaxMemory",
    "ModelConfig",
    "Preload",
    "ServerConfig",
    "Size",
    "TelemetryConfig",
    "ToolConfig",
    "check_defaults",
    "check_keys",
    "check_max_memory",
    "check_types",
    "convert",
    "find_file",
    "limits_of",
    "load_config",
    "merge",
    "merge_layers",
    "parse_config",
    "parse_model",
    "read_environ",
    "read_file",
    "read_layers",
    "typed_defaults",
    "with_defaults",
]

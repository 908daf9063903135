"""Configuration from files, the environment and flags: who wins, and what is said about mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from infs.config import (
    Config,
    DeviceConfig,
    HubConfig,
    LogConfig,
    ModelConfig,
    ServerConfig,
    convert,
    load_config,
    parse_config,
    parse_model,
)
from infs.engines.llama_cpp.options import LlamaOptions
from infs.errors import ConfigError

DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"

SETTINGS: dict[str, Any] = {
    "server": {"port": 1111, "host": "::1", "api_keys": ["a", "b"]},
    "models": {
        "org/name:v1.2": {
            "file": "/models/x.gguf",
            "ttl": 1.5,
            "device": {"gpu": False, "cpu_threads": 2},
            "completion_defaults": {"temperature": 0.5, "stop": ["\n"]},
            "preload": {"messages": [{"role": "system", "content": "Be kind."}]},
        },
    },
    "log": {"level": "debug"},
}

TOML = """
[server]
port = 1111
host = "::1"
api_keys = ["a", "b"]

[models."org/name:v1.2"]
file = "/models/x.gguf"
ttl = 1.5
device = { gpu = false, cpu_threads = 2 }
completion_defaults = { temperature = 0.5, stop = ["\\n"] }
preload = { messages = [{ role = "system", content = "Be kind." }] }

[log]
level = "debug"
"""

FORMATS: dict[str, str] = {
    ".toml": TOML,
    ".yaml": yaml.safe_dump(SETTINGS),
    ".YML": yaml.safe_dump(SETTINGS),
    ".json": json.dumps(SETTINGS),
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration file, and gives its path."""

    def write(content: str | bytes, name: str = "c.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refused(*args: Any, **options: Any) -> ConfigError:
    """The error of `load_config`."""
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **options)
    return caught.value


# --- who wins


@pytest.mark.parametrize("suffix", FORMATS)
def test_file_is_read_in_every_format(write: Write, suffix: str) -> None:
    config = load_config(write(FORMATS[suffix], "c" + suffix))
    assert config.server == ServerConfig(port=1111, host="::1", api_keys=["a", "b"])
    assert config.log == LogConfig(level="debug")
    model = config.models["org/name:v1.2"]
    assert (model.ttl, model.device) == (1.5, DeviceConfig(gpu=False, cpu_threads=2))
    assert model.completion_defaults == {"temperature": 0.5, "stop": ["\n"]}
    assert model.preload is not None
    assert [message.content for message in model.preload.messages or []] == ["Be kind."]


@pytest.mark.parametrize("suffix", FORMATS)
def test_flags_beat_environment_beats_file_beats_what_is_below(write: Write, suffix: str) -> None:
    path = write(FORMATS[suffix], "c" + suffix)
    environ = {"INFS_SERVER__PORT": "2222"}
    below = {"server": {"port": 9, "max_body": 10}}
    assert load_config(path, below=below).server.port == 1111
    assert load_config(path, environ=environ, below=below).server.port == 2222
    strongest = load_config(path, environ=environ, overrides={"server": {"port": 3333}}, below=below)
    assert strongest.server == ServerConfig(port=3333, host="::1", api_keys=["a", "b"], max_body=10)


def test_without_anything_there_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(directory=tmp_path) == Config()


def test_infs_toml_of_the_directory_is_found(write: Write, tmp_path: Path) -> None:
    write("server.port = 1234", "infs.toml")
    assert load_config(directory=tmp_path).server.port == 1234
    assert load_config(write("", "other.toml"), directory=tmp_path).server.port == 3000


def test_infs_toml_of_the_working_directory_is_found(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("server.port = 1234", "infs.toml")
    monkeypatch.chdir(tmp_path)
    assert load_config().server.port == 1234


# --- the environment


def test_environment_reaches_every_depth() -> None:
    config = load_config(
        environ={
            "INFS_CONCURRENCY": "3",
            "INFS_MODELS__SMALL__FILE": "small.gguf",
            "INFS_MODELS__SMALL__TTL": "0.5",
            "INFS_MODELS__SMALL__DEVICE__GPU": "false",
            "INFS_MODELS__SMALL__DEVICE__MEM_LOCK": "true",
            "INFS_MODELS__SMALL__COMPLETION_DEFAULTS__TEMPERATURE": "0.5",
            "INFS_MODELS__SMALL__COMPLETION_DEFAULTS__LOGIT_BIAS": '[{"token": 5, "bias": -1}]',
            "INFS_HUB__TOKEN": "12345",
            "infs_log__level": "error",
        }
    )
    assert config.concurrency == 3
    assert config.hub == HubConfig(token="12345")
    assert config.log.level == "error"
    assert config.models == {
        "small": ModelConfig(
            file="small.gguf",
            ttl=0.5,
            device=DeviceConfig(gpu=False, mem_lock=True),
            completion_defaults={"temperature": 0.5, "logit_bias": [{"token": 5, "bias": -1.0}]},
        )
    }


@pytest.mark.parametrize(("variable", "gpu"), [("auto", "auto"), ("true", True), ("False", False), ("cuda", "cuda")])
def test_gpu_of_the_environment_is_a_choice_or_a_backend(variable: str, gpu: bool | str) -> None:
    config = load_config(environ={"INFS_MODELS__A__DEVICE__GPU": variable})
    assert config.models["a"].device.gpu == gpu


def test_json_in_the_environment() -> None:
    config = load_config(
        environ={
            "INFS_SERVER__API_KEYS": '["1", "x=y"]',
            "INFS_MODELS": '{"org/name": {"file": "/x"}}',
            "INFS_MODELS__ORG_NAME__TTL": "7",
            "INFS_SERVER": ' {"port": 5}',
            "INFS_SERVER__HOST": "::",
        }
    )
    assert config.server == ServerConfig(port=5, host="::", api_keys=["1", "x=y"])
    assert config.models == {"org/name": ModelConfig(file="/x", ttl=7.0)}


@pytest.mark.parametrize("spelled", ["org/Qwen2.5-1B", "ORG_QWEN2_5_1B", "org_qwen2_5_1b", "ORG/QWEN2.5-1B"])
def test_environment_finds_the_id_of_the_file(write: Write, spelled: str) -> None:
    path = write('[models."org/Qwen2.5-1B"]\nfile = "/x"\nttl = 1')
    config = load_config(path, environ={f"INFS_MODELS__{spelled}__TTL": "2"})
    assert config.models == {"org/Qwen2.5-1B": ModelConfig(file="/x", ttl=2.0)}


def test_environment_prefers_the_very_id(write: Write) -> None:
    path = write("[models.a-b]\nttl = 1\n[models.a_b]\nttl = 1")
    for name, other in (("a-b", "a_b"), ("a_b", "a-b")):
        models = load_config(path, environ={f"INFS_MODELS__{name}__TTL": "2"}).models
        assert (models[name].ttl, models[other].ttl) == (2.0, 1.0)


@pytest.mark.parametrize(("spelled", "name"), [("SMALL", "small"), ("Small", "Small"), ("a/b.c", "a/b.c")])
def test_id_that_only_the_environment_has(spelled: str, name: str) -> None:
    assert list(load_config(environ={f"INFS_MODELS__{spelled}__FILE": "/x"}).models) == [name]


def test_other_variables_are_not_read() -> None:
    assert load_config(environ={"PATH": "/", "XINFS_SERVER__PORT": "x", "INFS_CONFIG": "not/there"}) == Config()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"INFS_SERVER__PROT": "1"}, r"the environment: unknown key 'server.prot'; did you mean 'port'\?"),
        ({"INFS_SERVER__PORT": "http"}, r"the environment: server.port: Expected `int`, got `str`\."),
        ({"INFS_SERVER__API_KEYS": "abc"}, r'server.api_keys: Expected `array`, got `str` \(write \["a", "b"\]\)'),
        ({"INFS_SERVER__API_KEYS": "[abc"}, r"INFS_SERVER__API_KEYS starts like JSON and is none"),
        ({"INFS_SERVER": "[" * 100_000}, r"INFS_SERVER starts like JSON and is none"),
        ({"INFS_SERVER": "x", "INFS_SERVER__PORT": "1"}, r"INFS_SERVER__PORT sets a part of something"),
        ({"INFS_SERVER": "x"}, r"server: Expected `object`, got `str`"),
        ({"INFS_": "x"}, r"unknown key ''; known are: cache_path,"),
        ({"INFS_MODELS__A__TTL": "-1"}, r"models.a.ttl: Expected `float` >= 0.0"),
        ({"INFS_MODELS": "x"}, r"models is not a table"),
    ],
)
def test_mistakes_in_the_environment(environ: dict[str, str], said: str) -> None:
    assert re.search(said, refused(environ=environ).message)


# --- mistakes


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("sever = {}", "sever", "server"),
        ("server.prot = 1", "server.prot", "port"),
        ("log.levle = 'info'", "log.levle", "level"),
        ("hub.endpiont = ''", "hub.endpiont", "endpoint"),
        ("models.a.contextsize = 1", "models.a.contextsize", "context_size"),
        ("models.a.device.cpu_thread = 1", "models.a.device.cpu_thread", "cpu_threads"),
        ("models.a.preload.prefx = ''", "models.a.preload.prefx", "prefix"),
        ("models.a.completion_defaults.temprature = 1", "models.a.completion_defaults.temprature", "temperature"),
        ("models.'a.b/c'.tll = 1", "models.a.b/c.tll", "ttl"),
    ],
)
def test_unknown_key_names_the_nearest(write: Write, text: str, key: str, near: str) -> None:
    path = write(text)
    error = refused(path)
    assert error.message == f"{path}: unknown key {key!r}; did you mean {near!r}?"
    assert error.param == key


def test_unknown_key_that_is_near_to_none_lists_them(write: Write) -> None:
    assert "unknown key 'log.zzz'; known are: format, level." in refused(write("log.zzz = 1")).message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server.port = 'x'", "server.port: Expected `int`, got `str`."),
        ("server.port = 65536", "server.port: Expected `int` <= 65535."),
        ("server.port = -1", "server.port: Expected `int` >= 0."),
        ("server = 3", "server: Expected `object`, got `int`."),
        ("server.api_keys = 'x'", 'server.api_keys: Expected `array`, got `str` (write ["a", "b"]).'),
        ("server.api_keys = [1]", "server.api_keys[0]: Expected `str`, got `int`."),
        ("server.stall_timeout = 0", "server.stall_timeout: Expected `float` > 0.0."),
        ("concurrency = 0", "concurrency: Expected `int` >= 1."),
        ("log.level = 'loud'", "log.level: Invalid enum value 'loud'."),
        ("models = 3", "models is not a table of models by their ids."),
        ("models = [1]", "models is not a table of models by their ids."),
        ("models.a = 3", "models.a: Expected `object`, got `int`."),
        ("models.a.max_sequences = 129", "models.a.max_sequences: Expected `int` <= 128."),
        ("models.a.ttl = 'soon'", "models.a.ttl: Expected `float`, got `str`."),
        ("models.a.device.gpu_layers = -1", "models.a.device.gpu_layers: Expected `int` >= 0."),
        ("models.a.sha256 = 'abc'", "models.a.sha256: Expected `str` matching regex"),
        ("models.a.prepare = 'now'", "models.a.prepare: Invalid enum value 'now'."),
        ("models.a.completion_defaults.top_p = 2", "models.a.completion_defaults.top_p: Expected `float` <= 1.0."),
        ("models.a.completion_defaults = 1", "models.a.completion_defaults: Expected `object`, got `int`."),
        ("models.a.preload = {}", "models.a.preload needs messages or prefix, and not both."),
        ("models.a.preload = { prefix = 'x', messages = [] }", "models.a.preload needs messages or prefix"),
        ("models.a = { url = 'hf:o/r/f', file = '/x' }", "models.a has both url and file; keep one."),
        ("models.a.min_instances = 2", "models.a has min_instances = 2, more than max_instances = 1."),
        ("models.'a b'.ttl = 1", "'a b' is no model id; use letters, digits and _ : . - / only."),
        ("models.''.ttl = 1", "'' is no model id"),
    ],
)
def test_wrong_types_and_ranges(write: Write, text: str, said: str) -> None:
    error = refused(write(text))
    assert said in error.message
    assert error.param is not None
    assert error.param.split(".")[0] in ("server", "models", "concurrency", "log")


def test_the_place_of_a_mistake_is_named(write: Write) -> None:
    path = write("server.port = 1")
    assert refused(path, overrides={"server": {"port": "x"}}).message.startswith("the command line: server.port")
    assert refused(path, environ={"INFS_SERVER__PORT": "x"}).message.startswith("the environment: server.port")
    assert refused(write("server.port = 'x'")).message.startswith(f"{path}: server.port")


def test_places_are_only_checked_against_each_other_at_the_end(write: Write) -> None:
    path = write("models.a.max_instances = 4")
    models = load_config(path, environ={"INFS_MODELS__A__MIN_INSTANCES": "2"}).models
    assert (models["a"].min_instances, models["a"].max_instances) == (2, 4)
    assert "more than max_instances" in refused(path, environ={"INFS_MODELS__A__MIN_INSTANCES": "5"}).message
    path = write("models.a.file = '/x'")
    assert "both url and file" in refused(path, overrides={"models": {"a": {"url": "hf:o/r/f"}}}).message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.toml", b"server = [", "is not valid TOML"),
        ("c.json", b'{"server": ', "is not valid JSON"),
        ("c.json", b"", "is not valid JSON"),
        ("c.yaml", b"server: [", "is not valid YAML"),
        ("c.yaml", b"!!python/object/apply:os.system ['true']", "is not valid YAML"),
        ("c.yaml", b"- 1\n- 2", "holds no table at its top level"),
        ("c.json", b"[]", "holds no table at its top level"),
        ("c.json", b"[" * 100_000, "is nested too deeply"),
        ("c.toml", b"server.host = '\xff'", "is not UTF-8 text"),
        ("c.ini", b"", "a configuration ends in .toml, .yaml, .yml or .json"),
        ("c", b"", "a configuration ends in .toml, .yaml, .yml or .json"),
    ],
)
def test_files_that_cannot_be_read(write: Write, name: str, content: bytes, said: str) -> None:
    path = write(content, name)
    message = refused(path).message
    assert said in message
    assert str(path) in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "none.toml").message
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in refused(tmp_path / "folder.toml").message


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.toml", b""), ("c.yaml", b""), ("c.yaml", b"# nothing"), ("c.yaml", b"server:\nmodels:\n"), ("c.json", b"{}")],
)
def test_empty_files_say_nothing(write: Write, name: str, content: bytes) -> None:
    assert load_config(write(content, name)) == Config()


def test_empty_model_of_yaml(write: Write) -> None:
    assert load_config(write("models:\n  demo:\n", "c.yaml")).models == {"demo": ModelConfig()}


def test_byte_order_mark_is_no_content(write: Write) -> None:
    assert load_config(write(b"\xef\xbb\xbfserver.port = 1")).server.port == 1


# --- ids and values


@given(st.text(alphabet="abcXYZ019_:./-", min_size=1))
def test_good_ids(name: str) -> None:
    assert list(parse_config({"models": {name: {"file": "/x"}}}).models) == [name]


@given(st.text().filter(lambda name: not re.fullmatch(r"[a-zA-Z0-9_:./-]+", name)))
def test_bad_ids(name: str) -> None:
    with pytest.raises(ConfigError, match="is no model id"):
        parse_config({"models": {name: {"file": "/x"}}})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*Config.__struct_fields__, *ModelConfig.__struct_fields__, *ServerConfig.__struct_fields__])


@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_anything_is_a_configuration_or_a_config_error(data: dict[str, Any]) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_config(data), Config)


@given(st.dictionaries(st.text(max_size=20).map(lambda name: "INFS_" + name), st.text(max_size=20), max_size=4))
def test_any_environment_is_a_configuration_or_a_config_error(environ: dict[str, str]) -> None:
    with suppress(ConfigError):
        assert isinstance(load_config(environ=environ, directory=Path(__file__).parent), Config)


def test_one_stop_text_is_a_list_of_one() -> None:
    assert parse_model("a", {"completion_defaults": {"stop": "x"}}).completion_defaults == {"stop": ["x"]}


def test_parsing_again_changes_nothing() -> None:
    defaults = {"stop": "x", "seed": "1", "constraint": {"type": "regex", "pattern": "a"}}
    once = parse_model("a", {"completion_defaults": defaults})
    assert once.completion_defaults["constraint"] == {"type": "regex", "pattern": "a"}
    assert parse_model("a", once) == once


# --- the page about it


def tables_of(kind: type[Struct], path: str) -> dict[str, type[Struct]]:
    """The tables of a configuration by their paths: `kind` at `path`, and all below it; ``ID`` is any name."""
    found = {path: kind}
    for field in msgspec.structs.fields(kind):
        for below in (part for part in parts_of(field.type) if isinstance(part, type) and issubclass(part, Struct)):
            name = "models.ID" if below is ModelConfig else ".".join(filter(None, [path, field.name]))
            if below.__module__ == kind.__module__:  # what comes from elsewhere has pages of its own
                found |= tables_of(below, name)
    return found


def parts_of(kind: Any) -> list[Any]:
    """A type and all that it is made of."""
    return [kind, *(part for inner in get_args(kind) for part in parts_of(inner))]


TABLES = tables_of(Config, "") | tables_of(LlamaOptions, "models.ID.options")


def rows_of(path: str) -> dict[str, str]:
    """The rows of the page's table below the one line that names `path`, by their keys."""
    intro = f"`{path}`" if path else "At the top:"
    page = DOCS.read_text(encoding="utf-8")
    (rows,) = re.findall(rf"^(?!\|)[^\n]*{re.escape(intro)}[^\n]*\n\n((?:\|[^\n]*\n)+)", page, re.MULTILINE)
    keys = {row: re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows.splitlines()[2:]}
    return {key: row for row, found in keys.items() for key in found}


@pytest.mark.parametrize("path", TABLES)
def test_page_has_every_key_and_no_other(path: str) -> None:
    assert set(rows_of(path)) == set(TABLES[path].__struct_fields__)


@pytest.mark.parametrize("path", TABLES)
def test_page_has_the_defaults(path: str) -> None:
    rows = rows_of(path)
    for field in msgspec.structs.fields(TABLES[path]):
        if isinstance(field.default, int | float | str):
            said = json.dumps(field.default).strip('"').removesuffix(".0")
            assert re.search(rf"(?<![\w.]){re.escape(said)}(?![\w.])", rows[field.name].split("|")[-2]), field.name


def test_all_that_can_be_configured_is_checked() -> None:
    assert {"server", "models.ID.tools", "models.ID.options.speculation.draft", "models.ID.options.lora"} < set(TABLES)


def test_example_of_the_page_is_valid(write: Write) -> None:
    whole, options = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert set(load_config(write(whole)).models) == {"demo", "small", "org/large"}
    small = load_config(write(options)).models["small"]
    assert convert(small.options, LlamaOptions, "the page").lora["legal"].scale == 0.0

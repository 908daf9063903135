"""From a command line to a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infs.cli.settings import CommandLine, read_settings
from infs.config import Config, DeviceConfig, ModelConfig
from infs.demo import demo_model
from infs.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(target: str | None = None, *, environ: Mapping[str, str] | None = None, **line: Any) -> Config:
    """What the command line means."""
    return read_settings(CommandLine(target=target, **line), environ or {}, Path.cwd())


def refused(target: str | None = None, **options: Any) -> str:
    """What is said against the command line."""
    with pytest.raises(ConfigError) as caught:
        settings(target, **options)
    return caught.value.message


# --- which models


def test_nothing_means_the_demo_model() -> None:
    assert settings() == Config(models={"demo": demo_model()})
    assert settings("demo") == settings()
    assert settings(model_id="mine").models == {"mine": demo_model()}


def test_nothing_means_infs_toml_if_it_is_there(folder: Path) -> None:
    (folder / "infs.toml").write_text("server.port = 1\nmodels.a.file = '/a'\nmodels.b.file = '/b'")
    config = settings()
    assert (config.server.port, list(config.models)) == (1, ["a", "b"])


def test_path_is_a_model_that_is_used_alone(folder: Path) -> None:
    (folder / "infs.toml").write_text("server.port = 1\nmodels.a.file = '/a'")
    (folder / "My model (1).gguf").touch()
    config = settings("My model (1).gguf")
    assert config.models == {"My-model-1": ModelConfig(file=str(folder / "My model (1).gguf"))}
    assert config.server.port == 1
    assert list(settings("./My model (1).gguf", model_id="x/y").models) == ["x/y"]


def test_id_of_the_configuration_is_used_alone(folder: Path) -> None:
    (folder / "infs.toml").write_text("models.a.file = '/a'\nmodels.'b/c'.file = '/b'")
    assert settings("b/c").models == {"b/c": ModelConfig(file="/b")}
    assert settings("a", model_id="z").models == {"z": ModelConfig(file="/a")}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("hf:org/repo/Qwen2.5-0.5B-Q8_0.gguf", "Qwen2.5-0.5B-Q8_0"),
        ("hf:org/repo", "repo"),
        ("hf:org/repo@v1/sub/x-00001-of-00003.gguf", "x"),
        ("https://huggingface.co/org/repo/blob/main/y.GGUF", "y"),
        ("https://example.com/a%20b.gguf?token=1", "a-b"),
        ("http://localhost:1/", "model"),
    ],
)
def test_urls_are_models_named_after_their_files(url: str, name: str) -> None:
    assert settings(url).models == {name: ModelConfig(url=url)}


def test_configuration_of_the_same_id_holds_for_a_given_file(folder: Path) -> None:
    (folder / "infs.toml").write_text(f"models.x = {{ url = 'hf:o/r/f', sha256 = '{'0' * 64}', ttl = 5 }}")
    (folder / "x.gguf").touch()
    assert settings("x.gguf").models == {"x": ModelConfig(file=str(folder / "x.gguf"), ttl=5.0)}


def test_demo_in_a_configuration_is_the_demo_model_with_its_settings(folder: Path) -> None:
    (folder / "infs.toml").write_text("models.demo = { ttl = 5, completion_defaults.seed = 1 }\nmodels.a.file = '/a'")
    demo = settings().models["demo"]
    assert (demo.file, demo.ttl, demo.completion_defaults) == (demo_model().file, 5.0, {"temperature": 0.0, "seed": 1})
    (folder / "infs.toml").write_text("models.demo.file = '/mine'")
    assert settings().models["demo"] == ModelConfig(file="/mine")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no.gguf", "There is no file no.gguf."),
        ("org/repo", "written hf:org/repo."),
        ("hf:org", "MODEL = 'hf:org' names no repository"),
        ("ftp://host/x.gguf", "MODEL = 'ftp://host/x.gguf' is not a URL that infs can fetch"),
        (".", ". is a folder; give the path of a model file."),
        ("no.toml", "no.toml cannot be read"),
    ],
)
def test_targets_that_are_nothing(target: str, said: str) -> None:
    assert said in refused(target)


def test_folder_says_what_it_holds(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "a.gguf").touch()
    assert refused("models") == "models is a folder (with a.gguf); give the path of a model file."


def test_unknown_target_lists_the_ids_that_there_are(folder: Path) -> None:
    (folder / "infs.toml").write_text("models.qwen.file = '/a'")
    assert "There is no file qwne, and no model of that id in the configuration, which has: qwen." in refused("qwne")


def test_model_id_is_for_one_model(folder: Path) -> None:
    (folder / "infs.toml").write_text("models.a.file = '/a'\nmodels.b.file = '/b'")
    assert refused(model_id="x") == "--model-id is for one model, and the configuration has these: a, b."
    assert "is no model id" in refused("hf:o/r/f", model_id="a b")


# --- which file


def test_argument_beats_option_beats_variable_beats_infs_toml(folder: Path) -> None:
    for number, name in enumerate(("infs.toml", "variable.json", "option.yaml", "argument.YML"), start=1):
        text = f"server.port = {number}" if name.endswith("toml") else f'{{"server": {{"port": {number}}}}}'
        (folder / name).write_text(text)
    environ = {"INFS_CONFIG": "variable.json"}
    assert settings().server.port == 1
    assert settings(environ=environ).server.port == 2
    assert settings(environ=environ, config_file=Path("option.yaml")).server.port == 3
    assert settings("argument.YML", environ=environ).server.port == 4
    both = refused("argument.YML", config_file=Path("option.yaml"))
    assert both == "There are two configuration files, argument.YML and option.yaml; give one."


def test_url_that_ends_like_a_configuration_is_a_model() -> None:
    assert settings("https://example.com/x.json").models["x.json"].url == "https://example.com/x.json"


# --- flags


def test_flags_that_were_given_are_the_strongest(folder: Path) -> None:
    (folder / "infs.toml").write_text("[server]\nport = 1\nhost = 'h'\napi_keys = ['k']\n[log]\nlevel = 'error'")
    config = settings(
        environ={"INFS_SERVER__PORT": "2", "INFS_LOG__LEVEL": "info"},
        flags={"server__port": 3, "server__host": None, "server__api_keys": (), "cache_path": "/c"},
        below={"log": {"level": "debug", "format": "json"}},
    )
    assert (config.server.port, config.server.host, config.server.api_keys) == (3, "h", ["k"])
    assert (config.log.level, config.log.format, config.cache_path) == ("info", "json", "/c")
    assert settings(flags={"server__api_keys": ("a", "b")}).server.api_keys == ["a", "b"]


def test_flags_about_models_are_for_all_of_them(folder: Path) -> None:
    (folder / "infs.toml").write_text("models.a = { file = '/a', device.gpu_layers = 3 }\nmodels.b.file = '/b'")
    flags = {"model__context_size": 512, "model__device__gpu": False, "model__ttl": None}
    models = settings(flags=flags).models
    assert models["a"] == ModelConfig(file="/a", context_size=512, device=DeviceConfig(gpu=False, gpu_layers=3))
    assert models["b"] == ModelConfig(file="/b", context_size=512, device=DeviceConfig(gpu=False))


@pytest.mark.parametrize(
    ("assignment", "find"),
    [
        ("server.port=8080", lambda config: config.server.port == 8080),
        ("server.host = ::1", lambda config: config.server.host == "::1"),
        ('server.api_keys=["a=b"]', lambda config: config.server.api_keys == ["a=b"]),
        ('hub.token="123"', lambda config: config.hub.token == "123"),
        ("concurrency=null", lambda config: config.concurrency is None),
        ("models.demo.ttl=0.5", lambda config: config.models["demo"].ttl == 0.5),
        ("models.demo.device.gpu=false", lambda config: config.models["demo"].device.gpu is False),
        ("models.demo.completion_defaults.top_k=5", lambda c: c.models["demo"].completion_defaults["top_k"] == 5),
        ('models={"q": {"file": "/x"}}', lambda config: list(config.models) == ["q"]),
        ("models.Qwen2.5-1.5B.file=/x", lambda config: config.models["Qwen2.5-1.5B"].file == "/x"),
        ("models.q.v1.device.cpu_threads=2", lambda config: config.models["q.v1"].device.cpu_threads == 2),
        ('models.q={"file": "/x"}', lambda config: config.models["q"].file == "/x"),
    ],
)
def test_set(assignment: str, find: Any) -> None:
    assert find(settings(assignments=(assignment,)))


def test_set_many_times() -> None:
    config = settings(assignments=("server.port=1", "server.port=2", "server.host=h"), flags={"server__host": "flag"})
    assert (config.server.port, config.server.host) == (2, "flag")


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("server.port", "--set server.port: write KEY=VALUE, such as --set server.port=8080."),
        ("=1", "'' is no key"),
        ("server..port=1", "'server..port' is no key"),
        ("server.prot=1", "the command line: unknown key 'server.prot'; did you mean 'port'?"),
        ("server.port=x", "the command line: server.port: Expected `int`, got `str`."),
        ("server.api_keys=[a]", "--set server.api_keys=[a]: the value starts like JSON and is none"),
        ("models.demo.tll=1", "unknown key 'models.demo.tll'; did you mean 'ttl'?"),
        ("models.q.1.tll=1", "unknown key 'models.q.1.tll'; did you mean 'ttl'?"),
        ("models.demo.device.gpus=1", "unknown key 'models.demo.device.gpus'; did you mean 'gpu'?"),
    ],
)
def test_set_that_is_wrong(assignment: str, said: str) -> None:
    assert said in refused(assignments=(assignment,))

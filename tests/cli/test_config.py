"""``infs config``: every kind of mistake is found, all at once; the schema, the first file, and what holds."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from infs.cli import starting
from infs.cli.commands import infs
from infs.cli.keys import walk
from infs.cli.schemas import config_schema
from infs.config import Config, ModelConfig, load_config
from infs.demo import MODEL_FILE
from infs.errors import ConfigError
from infs.types import GENERATION_OPTIONS
from tests.cli.programs import one_line

FILE = f"file = {json.dumps(str(MODEL_FILE))}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an empty one, without settings in the environment."""
    for name in list(os.environ):
        if name.upper().startswith(("INFS_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*args: str, input: str | None = None) -> Result:
    """``infs config ARGS``."""
    return CliRunner().invoke(infs, ["config", *args], input=input)


def problems(result: Result) -> list[str]:
    """What ``config check`` complains of; nothing else may be said then."""
    assert result.exit_code == 2, result.output
    assert result.stderr == ""
    head, _, *lines = result.stdout.splitlines()
    assert head.endswith(f"{len(lines)} problem{'s' if len(lines) > 1 else ''}.")
    assert all(line.startswith("- ") for line in lines)
    return [line.removeprefix("- ") for line in lines]


# --- check: every kind of mistake -----------------------------------------------------------------------------

MISTAKES = [
    # unknown keys, at each depth
    ("prot = 1", "unknown key 'prot'"),
    ("server.prot = 1", "unknown key 'server.prot'; did you mean 'port'?"),
    ("models.a.tttl = 1", "unknown key 'models.a.tttl'; did you mean 'ttl'?"),
    ("models.a.device.gpus = 1", "unknown key 'models.a.device.gpus'; did you mean 'gpu'?"),
    ("models.a.preload.prefixx = 'x'", "unknown key 'models.a.preload.prefixx'; did you mean 'prefix'?"),
    ("models.a.completion_defaults.temprature = 1", "unknown key 'models.a.completion_defaults.temprature'; did you"),
    ("models.a.options.host_cash = 1", "unknown key 'models.a.options.host_cash'; did you mean 'host_cache'?"),
    ("models.a.options.rope.scale = 1", "unknown key 'models.a.options.rope.scale'"),
    ("models.a.tools = [{ handlr = 'a:b' }]", "unknown key 'models.a.tools[0].handlr'; did you mean 'handler'?"),
    ("models.a.grammars.g = { type = 'regex', patern = 'a' }", "unknown key 'models.a.grammars.g.patern'"),
    # wrong types and ranges
    ("server.port = 'x'", "server.port: Expected `int`, got `str`."),
    ("server.port = 70000", "server.port: Expected `int` <= 65535."),
    ("server.api_keys = 'secret'", 'server.api_keys: Expected `array`, got `str` (write ["a", "b"]).'),
    ("server = 1", "server: Expected `object`, got `int`."),
    ("models = 1", "models is not a table of models by their ids."),
    ("models.c = 1", "models.c: Expected `object`, got `int`."),
    ("models.a.ttl = -1", "models.a.ttl: Expected `float` >= 0.0."),
    ("models.a.max_sequences = 129", "models.a.max_sequences: Expected `int` <= 128."),
    ("models.a.prepare = 'later'", "models.a.prepare: Invalid enum value 'later'."),
    ("models.a.device.cpu_threads = 0", "models.a.device.cpu_threads: Expected `int` >= 1."),
    ("models.a.sha256 = 'abc'", "models.a.sha256: Expected `str` matching regex"),
    ("models.a.completion_defaults.temperature = -1", "models.a.completion_defaults.temperature: Expected"),
    ("models.a.options.split_mode = 'rows'", "models.a.options.split_mode: Invalid enum value 'rows'."),
    ("log.level = 'loud'", "log.level: Invalid enum value 'loud'."),
    ("concurrency = 0", "concurrency: Expected `int` >= 1."),
    # what does not go together
    ("models.a.url = 'hf:o/r'", "models.a has both url and file; keep one."),
    ("models.a.min_instances = 2", "models.a has min_instances = 2, more than max_instances = 1."),
    ("models.a.preload = {}", "models.a.preload needs messages or prefix, and not both."),
    ("models.b = {}", "models.b needs a url or a file."),
    # values that mean nothing
    ("max_memory = '8 potatoes'", "max_memory: '8 potatoes' is no amount of memory; write bytes,"),
    ("max_memory = { host = '80%', 'cuda:0' = '120%' }", "max_memory.cuda:0: '120%' is more than all of it."),
    ("models.'a b'.file = '/x'", "'a b' is no model id; use letters, digits and _ : . - / only."),
    ("models.a.engine = 'lama'", "There is no engine 'lama'; there are: llama-cpp"),
    ("models.b.url = 'nothing'", "models.b.url = 'nothing' is not a URL that infs can fetch; write"),
    ("models.b.url = 'hf:org'", "models.b.url = 'hf:org' names no repository"),
    ("models.b.file = '../x'", "models.b.file = '../x' leads out of the cache"),
    ("models.b.file = '/no/such.gguf'", "models.b.file: there is no /no/such.gguf; put it there, or write"),
    ("models.b.url = 'ollama:none'", "models.b.url: ollama:none:latest is not on this machine"),
    ("hub.endpoint = 'nowhere'", "hub.endpoint (or HF_ENDPOINT) = 'nowhere' is not the URL of a hub"),
    # what an engine would complain of when it loads the model
    ("models.a.chat_template = '{% if %}'", "models.a.chat_template: The chat template is not valid Jinja"),
    ("models.a.grammars.g = 'root ::= x'", "models.a.grammars.g: "),
    (
        "models.a.completion_defaults.constraint = { type = 'regex', pattern = '(' }",
        ".completion_defaults.constraint: ",
    ),
    (
        "models.a.completion_defaults.constraint = { type = 'named', name = 'no' }",
        "there is no grammar 'no' in grammars",
    ),
    (
        "models.a.tools = [{ handler = 'json:dumps', parameters = {} }, { handler = 'no_such:x' }]",
        "models.a.tools[1].handler: 'no_such:x' cannot be imported",
    ),
    ("models.a.tools = [{ handler = 'json' }]", "models.a.tools[0].handler"),
    ("models.a.task = 'embedding'\nmodels.a.tools = [{ handler = 'json:dumps' }]", "models.a has tools, which a model"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_mistakes_name_the_key_and_what_to_do(folder: Path, text: str, said: str) -> None:
    (folder / "infs.toml").write_text(f"models.a.{FILE}\n{text}" if "models.a" in text else text)
    (found,) = problems(call("check"))
    assert said in found


def test_all_mistakes_are_found_at_once(folder: Path) -> None:
    """Even where two of them are in the same table."""
    text = f"""
        concurrency = 0
        server = {{ port = 70000, hosst = "x" }}
        [models.a]
        {FILE}
        ttl = -1
        max_sequences = 0
        options = {{ pooling = "max", batch_tokens = 1 }}
        completion_defaults = {{ top_p = 2, stopp = "x" }}
        chat_template = "{{% if %}}"
        [models.b]
        file = "/x"
        url = "hf:o/r"
        min_instances = 2
        [models.c]
        url = "hf:org/repo"
    """
    (folder / "infs.toml").write_text(text)
    keys = ["concurrency", "server.port", "server.hosst", "a.ttl", "a.max_sequences", "a.options.pooling"]
    keys += ["a.options.batch_tokens", "a.completion_defaults.top_p", "a.completion_defaults.stopp", "a.chat_template"]
    keys += ["b has both url and file", "b has min_instances"]
    found = problems(call("check"))
    assert [key for key in keys if not any(key in problem for problem in found)] == []
    assert len(found) == len(keys)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.toml", b"x = ", "a.toml is not valid TOML: "),
        ("a.toml", b"a = 1\na = 2", "a.toml is not valid TOML: "),
        ("a.yaml", b"a: [", "a.yaml is not valid YAML: "),
        ("a.yaml", b"server: {port: 1}\nlog: {}\nserver: {port: 2}", "a.yaml has the key 'server' twice in one table"),
        ("a.yml", b"server: {port: 1, port: 1}", "a.yml has the key 'port' twice in one table; keep one."),
        ("a.json", b"{", "a.json is not valid JSON: "),
        ("a.json", b'{"server": {"port": 1, "port": 2}}', "a.json has the key 'port' twice in one table; keep one."),
        ("a.json", b"[]", "a.json holds no table at its top level."),
        ("a.toml", "server.host = 'ä'".encode("latin-1"), "a.toml is not UTF-8 text: "),
        ("a.txt", b"", "a.txt: a configuration ends in .toml, .yaml, .yml or .json."),
        ("folder.toml", None, "folder.toml cannot be read: "),
        ("missing.toml", b"", "missing.toml cannot be read: No such file or directory."),
    ],
)
def test_files_that_cannot_be_read(folder: Path, name: str, content: bytes | None, said: str) -> None:
    if content is None:
        (folder / name).mkdir()
    elif not name.startswith("missing"):
        (folder / name).write_bytes(content)
    (problem,) = problems(call("check", name))
    assert said in problem


def test_merged_keys_of_yaml_are_no_duplicates(folder: Path) -> None:
    (folder / "a.yaml").write_text(f"models:\n  a: &a {{{FILE.replace(' =', ':')}, ttl: 1}}\n  b: {{<<: *a, ttl: 2}}")
    assert call("check", "a.yaml").exit_code == 0


def test_mistakes_of_the_environment_and_of_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFS_SERVER__API_KEYS", "[oops")
    monkeypatch.setenv("INFS_SERVER__PROT", "1")
    monkeypatch.setenv("INFS_LOG__LEVEL", "loud")
    found = problems(call("check", "--set", "server.port", "--set", "a..b=1", "--set", "log.format=[", "--set", "q=1"))
    expected = [
        "INFS_SERVER__API_KEYS starts like JSON and is none: ",
        "the environment: unknown key 'server.prot'; did you mean 'port'?",
        "the environment: log.level: Invalid enum value 'loud'.",
        "--set server.port: write KEY=VALUE, such as --set server.port=8080.",
        "--set a..b=1: 'a..b' is no key; write parts with dots between them, as in server.port.",
        "--set log.format=[: the value starts like JSON and is none: ",
        "the command line: unknown key 'q'",
    ]
    assert [said for said in expected if not any(problem.startswith(said) for problem in found)] == []
    assert len(found) == len(expected)


def test_missing_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = problems(call("check", "--set", f"models.a.file={MODEL_FILE}"))
    assert 'which is not installed: pip install "infs[llama-cpp]"' in problem


def test_ok_says_what_was_understood(folder: Path) -> None:
    (folder / "infs.toml").write_text(
        f"cache_path = '{folder}'\nserver.api_keys = ['secret']\nmodels.a.{FILE}\n"
        "models.b.url = 'https://user:secret@example.com/b.gguf?token=secret'\nmodels.demo.ttl = 1\n"
        "models.a.tools = [{ handler = 'handlers:look' }]\nmodels.a.grammars.yes = 'root ::= \"yes\"'"
    )
    (folder / "handlers.py").write_text("def look(what: str) -> str:\n    '''Look.'''\n    return what\n")
    done = call("check")
    assert done.exit_code == 0, done.output
    assert "infs.toml is ok." in done.stdout
    assert "server  http://127.0.0.1:3000, 1 API key\n" in done.stdout
    assert re.search(rf"^a +llama-cpp +3.0 MB +{re.escape(str(MODEL_FILE))}$", done.stdout, re.MULTILINE)
    assert re.search(r"^b +llama-cpp +- +https://example.com/b.gguf, not downloaded yet$", done.stdout, re.MULTILINE)
    assert re.search(r"^demo +llama-cpp +3.0 MB ", done.stdout, re.MULTILINE)
    assert "secret" not in done.stdout


def test_no_file_is_ok(folder: Path) -> None:
    assert "models  none; infs serve offers the demo model" in call("check").stdout


# --- schema ---------------------------------------------------------------------------------------------------


def test_schema_describes_every_key() -> None:
    schema = json.loads(call("schema").stdout)
    assert schema == config_schema()
    definitions: dict[str, Any] = {"Config": schema, **schema["$defs"]}
    for kind in (Config, *Config.__annotations__.values(), ModelConfig):
        name = kind if isinstance(kind, str) else kind.__name__
        for key, field in definitions.get(name, {}).get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"
    text = json.dumps(schema)
    assert {ref.partition("$defs/")[2] for ref in re.findall(r'"\$ref": "([^"]*)"', text)} <= definitions.keys()
    assert "``" not in text


def test_schema_knows_options_by_engine_and_defaults_by_name() -> None:
    model = config_schema()["$defs"]["ModelConfig"]
    named, unnamed = model["allOf"]
    assert named["if"]["properties"]["engine"] == {"const": "llama-cpp"}
    assert named["then"]["properties"]["options"] == {"$ref": "#/$defs/LlamaOptions"}
    assert unnamed["then"]["properties"]["options"]["anyOf"] == [{"$ref": "#/$defs/LlamaOptions"}]
    assert model["properties"]["completion_defaults"]["$ref"] == "#/$defs/CompletionDefaults"
    defaults = config_schema()["$defs"]["CompletionDefaults"]
    assert set(defaults["properties"]) == set(GENERATION_OPTIONS)
    assert defaults["additionalProperties"] is False
    assert {"type": "string"} in defaults["properties"]["stop"]["anyOf"]


# --- init -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ((), {"demo": ModelConfig()}),
        (("hf:org/repo:Q4_K_M",), {"repo": ModelConfig(url="hf:org/repo:Q4_K_M")}),
        (("ollama:llama3:8b",), {"llama3:8b": ModelConfig(url="ollama:llama3:8b")}),
        (
            (f"or.g/m={MODEL_FILE}", "https://example.com/x.gguf?a=b"),
            {"or.g/m": ModelConfig(file=str(MODEL_FILE)), "x": ModelConfig(url="https://example.com/x.gguf?a=b")},
        ),
    ],
)
def test_first_file_is_valid(folder: Path, models: tuple[str, ...], expected: dict[str, ModelConfig]) -> None:
    done = call("init", *(part for model in models for part in ("--model", model)))
    assert (done.exit_code, done.stdout.splitlines()[0][:20]) == (0, "infs.toml is written")
    assert load_config("infs.toml") == Config(models=expected)


def test_every_key_of_the_first_file_can_be_taken_as_it_stands(folder: Path) -> None:
    """With all marks taken away, but for `url`, which the demo model needs none of."""
    text = starting.text_of({}, {})
    lines = [re.sub(r"^# (?=[\w.]+ = )(?!url)", "", line) for line in text.splitlines()]
    (folder / "infs.toml").write_text("\n".join(lines))
    data = tomllib.loads("\n".join(lines))
    config = load_config("infs.toml")
    assert config.server == Config().server
    assert data["server"].keys() == msgspec.structs.asdict(Config().server).keys()
    assert data["models"]["demo"].keys() >= {"context_size", "ttl", "device", "completion_defaults"}
    assert all(f"{key.path.rpartition('.')[2]} = " in text for key in walk() if key.path.startswith(("server", "log")))


def test_a_file_that_is_there_stays(folder: Path) -> None:
    (folder / "infs.toml").write_text("concurrency = 1")
    done = call("init")
    assert (done.exit_code, one_line(done.stderr)) == (2, "Error: infs.toml is there already; --force replaces it.")
    assert load_config("infs.toml").concurrency == 1
    assert call("init", "--force").exit_code == 0
    assert load_config("infs.toml").concurrency is None


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("x.yaml",), 2, "its name must end in .toml."),
        (("no/such/infs.toml",), 1, "cannot be written: No such file"),
        (("--model", "hf:org"), 2, "names no repository"),
        (("--model", "no.gguf"), 2, "There is no file no.gguf."),
        (("--model", "hf:a/x", "--model", "hf:b/x"), 2, "Two models are called 'x'; write ID= in front of one"),
    ],
)
def test_what_cannot_be_begun(args: tuple[str, ...], status: int, said: str) -> None:
    done = call("init", *args)
    assert done.exit_code == status
    assert said in one_line(done.stderr)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("\n\n\n", Config(models={"demo": ModelConfig()})),
        ("nothing.gguf\nhf:o/r\n99999\n81\ny\n", None),
    ],
)
def test_questions_on_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answers: str, expected: Config | None
) -> None:
    monkeypatch.setattr(starting, "is_terminal", lambda: True)
    done = call("init", input=answers)
    assert done.exit_code == 0, done.output
    config = load_config("infs.toml")
    if expected is not None:
        assert config == expected
        return
    assert "There is no file nothing.gguf. Give another one" in done.stdout
    assert (config.models, config.server.port) == ({"r": ModelConfig(url="hf:o/r")}, 81)
    assert config.server.host == "0.0.0.0"
    assert len(config.server.api_keys[0]) >= 32


# --- show -----------------------------------------------------------------------------------------------------


def test_every_value_has_its_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFS_SERVER__PORT", "81")
    monkeypatch.setenv("INFS_MODELS__SMALL__TTL", "7")
    monkeypatch.setenv("INFS_HUB", '{"token": "secret"}')
    (folder / "infs.toml").write_text(
        "server.port = 80\nserver.host = 'h'\nserver.api_keys = ['secret', 'b']\n"
        "models.small = { url = 'https://u:secret@x/y?secret', completion_defaults = { top_k = 3 } }"
    )
    done = call("show", "--json", "--set", "models.small.device.gpu=false")
    assert "secret" not in done.stdout
    shown = {key: (one["value"], one["source"]) for key, one in json.loads(done.stdout).items()}
    expected = {
        "server.port": (81, "environment"),
        "server.host": ("h", "file"),
        "server.max_body": (67108864, "default"),
        "server.api_keys": (["********"] * 2, "file"),
        "hub.token": ("********", "environment"),
        "models.small.url": ("https://x/y", "file"),
        "models.small.ttl": (7.0, "environment"),
        "models.small.completion_defaults.top_k": (3, "file"),
        "models.small.device.gpu": (False, "flag"),
        "models.small.device.mem_lock": (False, "default"),
    }
    assert {key: shown[key] for key in expected} == expected
    lines = call("show", "--changed").stdout.splitlines()
    assert lines[0] == f"file: {folder / 'infs.toml'}"
    assert not any(line.endswith("default") for line in lines)
    assert len(lines) == 3 + 7


def test_wrong_configuration_is_not_shown(folder: Path) -> None:
    (folder / "infs.toml").write_text("server.prot = 1")
    done = call("show")
    assert done.exit_code == 2
    assert "unknown key 'server.prot'" in one_line(done.stderr)
    with pytest.raises(ConfigError):
        load_config("infs.toml")

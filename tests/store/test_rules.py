"""What a model needs, asked of the rules of the engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infs.config import ModelConfig
from infs.engines.base import EngineSpec
from infs.engines.registry import file_rules
from infs.errors import EngineNotFound, SourceError, SourceNotFound
from infs.store.extras import wanted_extras, with_extras
from infs.store.rules import BUILTIN, FORMATS, GGUF, ONNX, PROJECTOR, TRANSFORMERS, quant_of
from infs.store.selection import FileRule, Place, RepoFile, Selection, Wish, choose_engine, counted

TRANSFORMER = [
    ".gitattributes",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "consolidated.safetensors",
    "generation_config.json",
    "merges.txt",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "modeling_own.py",
    "onnx/model.onnx",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "tokenizer.model",
]
GRAPHS = [
    "config.json",
    "onnx/decoder_model.onnx",
    "onnx/decoder_model.onnx_data",
    "onnx/decoder_model.onnx_data_1",
    "onnx/decoder_model_q4.onnx",
    "onnx/encoder_model.onnx",
    "onnx/encoder_model_q4.onnx",
    "other/notes.json",
    "preprocessor_config.json",
    "tokenizer.json",
]


def select(rule: FileRule, names: Sequence[str], **wish: object) -> list[Selection]:
    return rule.select([RepoFile(name) for name in names], Wish(**wish))  # type: ignore[arg-type]


def mains(names: Sequence[str], **wish: object) -> list[str]:
    return [each.main for each in select(GGUF, names, **wish)]


# --- GGUF ---


@pytest.mark.parametrize(
    ("quant", "found"),
    [
        ("Q4_K_M", ["M-Q4_K_M.gguf"]),
        ("q4_k_m", ["M-Q4_K_M.gguf"]),
        ("Q4_K", []),
        ("Q4_0", ["m.q4_0.gguf"]),
        ("IQ4_XS", ["M_IQ4_XS.gguf"]),
        ("UD-Q4_K_XL", ["M-UD-Q4_K_XL.gguf"]),
        ("Q4_K_XL", ["M-UD-Q4_K_XL.gguf"]),
        ("BF16", ["BF16/M-00001-of-00002.gguf"]),
        ("f16", ["M-F16.gguf"]),
        ("Q8_0", ["M-Q8_0.gguf"]),
        (".*", []),
        ("M", ["M-F16.gguf", "M-Q4_K_M.gguf", "M-Q8_0.gguf", "M-UD-Q4_K_XL.gguf", "M-UD-Q8_0.gguf", "m.q4_0.gguf"]),
    ],
)
def test_a_quantisation_names_the_file_that_carries_it(quant: str, found: list[str]) -> None:
    names = ["M-Q4_K_M.gguf", "m.q4_0.gguf", "M_IQ4_XS.gguf", "M-UD-Q4_K_XL.gguf", "mmproj-F16.gguf", "M-F16.gguf"]
    names += ["M-Q8_0.gguf", "M-UD-Q8_0.gguf", "BF16/M-00001-of-00002.gguf", "BF16/M-00002-of-00002.gguf"]
    assert [name for name in mains(names, quant=quant) if not name.startswith("BF16/") or quant == "BF16"] == found


def test_a_split_model_is_one_and_says_what_is_missing() -> None:
    (whole,) = select(GGUF, ["a/m-00002-of-00002.gguf", "a/m-00001-of-00002.gguf", "imatrix.gguf"])
    assert (whole.main, whole.missing) == ("a/m-00001-of-00002.gguf", ())
    assert whole.files == ("a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf")
    (half,) = select(GGUF, ["m-00002-of-00002.gguf"])
    assert half.missing == ("m-00001-of-00002.gguf",)
    assert mains(["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"], path="a-00002-of-00002.gguf") == [
        "a-00001-of-00002.gguf"
    ]


@pytest.mark.parametrize(
    ("names", "projector"),
    [
        (["m.gguf"], None),
        (["m.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F16.gguf"),
        (["m.gguf", "m-mmproj-q8_0.gguf"], "m-mmproj-q8_0.gguf"),
        (["Q4/m.gguf", "mmproj-F16.gguf", "Q4/mmproj-F32.gguf"], "Q4/mmproj-F32.gguf"),
        (["Q4/m.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["m.gguf", "other/mmproj-F16.gguf"], None),
    ],
)
def test_the_projector_beside_a_model(names: list[str], projector: str | None) -> None:
    (found,) = select(GGUF, names)
    assert found.beside == ({} if projector is None else {PROJECTOR: projector})
    assert found.files == (found.main,)


@pytest.mark.parametrize(
    ("name", "label"),
    [("M-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"), ("Q8_0/m.gguf", "Q8_0"), ("m-fp16.gguf", "FP16"), ("qwen3-4b.gguf", "")],
)
def test_the_quantisation_in_a_name(name: str, label: str) -> None:
    assert quant_of(name) == label


# --- folders ---


def test_a_transformers_model_is_its_shards_settings_and_tokenizer() -> None:
    (found,) = select(TRANSFORMERS, TRANSFORMER)
    left_out = {".gitattributes", "README.md", "consolidated.safetensors", "modeling_own.py", "onnx/model.onnx"}
    left_out |= {"pytorch_model.bin", "pytorch_model.bin.index.json"}
    assert (found.main, found.missing) == ("", ())
    assert set(found.files) == set(TRANSFORMER) - left_out


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([name for name in TRANSFORMER if "00002-of" not in name], ("model-00002-of-00002.safetensors",)),
        (["model.safetensors"], ("config.json",)),
        (["config.json", "model.safetensors", "model-00001-of-00002.safetensors"], ()),
        (["config.json", "a.safetensors", "b.safetensors"], ()),
    ],
)
def test_what_a_transformers_model_lacks(names: list[str], missing: tuple[str, ...]) -> None:
    (found,) = select(TRANSFORMERS, names)
    assert found.missing == missing


@pytest.mark.parametrize("names", [["adapter_model.safetensors", "adapter_config.json"], ["config.json"], ["m.gguf"]])
def test_what_is_no_transformers_model(names: list[str]) -> None:
    assert select(TRANSFORMERS, names) == []


@pytest.mark.parametrize(
    ("quant", "left_out"),
    [
        ("", {"onnx/decoder_model_q4.onnx", "onnx/encoder_model_q4.onnx"}),
        ("Q4", {"onnx/decoder_model.onnx", "onnx/encoder_model.onnx", *GRAPHS[2:4]}),
    ],
)
def test_an_onnx_model_is_its_graphs_data_and_settings(quant: str, left_out: set[str]) -> None:
    (found,) = select(ONNX, GRAPHS, quant=quant)
    assert set(found.files) == set(GRAPHS) - left_out - {"other/notes.json"}


def test_an_onnx_pipeline_is_all_of_its_folders() -> None:
    names = [
        "model_index.json",
        "unet/config.json",
        "unet/model.onnx",
        "unet/model.onnx_data",
        "vae/model.onnx",
        "x.py",
        "a/b.json",
    ]
    (found,) = select(ONNX, names)
    assert set(found.files) == set(names) - {"x.py"}
    assert select(ONNX, ["config.json"]) == []


def test_patterns_say_what_counts() -> None:
    files = [RepoFile(name) for name in ["a/x.gguf", "b/x.gguf", "b/y.gguf"]]
    assert [f.path for f in counted(files, Wish(allow=("b/",), ignore=("*y*",)))] == ["b/x.gguf"]
    (found,) = select(TRANSFORMERS, TRANSFORMER, allow=("*",))
    assert "modeling_own.py" in found.files


@given(st.lists(st.text(max_size=40) | st.sampled_from([*TRANSFORMER, *GRAPHS, "m-00001-of-00900.gguf"])), st.text())
def test_any_names_are_judged(names: list[str], quant: str) -> None:
    for rule in FORMATS:
        for found in select(rule, names, quant=quant):
            assert {*found.files} - {*found.missing} <= {*names}
            assert not {*found.missing} & {*names}


# --- the engine ---

PLACE = Place("hf:org/repo", "url", lambda each: f"hf:org/repo/{each.main}")
PATH = Path("/models").absolute()
ALL = {"llama-cpp": GGUF, "transformers": TRANSFORMERS, "onnx": ONNX}


def choose(names: Sequence[str], rules: object = BUILTIN, engine: str | None = None, **wish: object) -> tuple[str, str]:
    files = [RepoFile(name) for name in names]
    found = choose_engine(rules, files, Wish(**wish), PLACE, engine=engine, known=FORMATS)  # type: ignore[arg-type]
    return found.engine, found.selection.main


@pytest.mark.parametrize(
    ("names", "engine", "chosen"),
    [
        (["m.gguf"], None, ("llama-cpp", "m.gguf")),
        (TRANSFORMER, None, ("transformers", "")),
        ([*TRANSFORMER, "m.gguf"], None, ("llama-cpp", "m.gguf")),
        ([*TRANSFORMER, "m.gguf"], "transformers", ("transformers", "")),
        (TRANSFORMER, "onnx", ("onnx", "")),
        (GRAPHS, None, ("onnx", "")),
        (["a.bin", "b.bin"], "own", ("own", "")),
    ],
)
def test_the_first_engine_that_can_load_something(
    names: list[str], engine: str | None, chosen: tuple[str, str]
) -> None:
    assert choose(names, ALL, engine) == chosen


@pytest.mark.parametrize(
    ("names", "engine", "wish", "said"),
    [
        (TRANSFORMER[:-4], None, {}, r"Transformers model \(safetensors\).*Known are: llama-cpp \(GGUF model\)"),
        (TRANSFORMER, "llama-cpp", {}, "holds a Transformers model"),
        (["README.md"], None, {}, "holds no .gguf file"),
        (["README.md"], "own", {"allow": ("*.bin",)}, "no file that counts"),
        (["a.bin"], "own", {"quant": "Q4_0"}, "no rule"),
        (["a-Q4_0.gguf", "b-Q8_0.gguf"], None, {}, r"2 models; .* as url:\n  hf:org/repo/a-Q4_0.gguf\n"),
        (["a-Q4_0.gguf"], None, {"quant": "Q9"}, r"'Q9' in its name. There are:\n  hf:org/repo/a-Q4_0.gguf"),
        (["a-00001-of-00009.gguf"], None, {}, r"missing: a-00002-of-00009.gguf, .* \(and 5 more\)"),
    ],
)
def test_files_that_are_no_model(names: list[str], engine: str | None, wish: dict[str, object], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        choose(names, BUILTIN, engine, **wish)
    with pytest.raises(SourceNotFound, match="nothing that an engine"):
        choose(["README.md"], {})


def test_the_rules_of_engines() -> None:
    own = EngineSpec(name="own", factory="x:y", files="infs.store.rules:ONNX")
    plain = EngineSpec(name="plain", factory="x:y")
    assert list(file_rules({"own": own, "plain": plain})) == ["own", "llama-cpp"]
    assert file_rules() == BUILTIN
    for wrong in ("infs.store.rules:NOTHING", "infs.nothing:X", "infs.store.rules:PROJECTOR", "no-module"):
        with pytest.raises(EngineNotFound, match="as its files"):
            file_rules({"own": EngineSpec(name="own", factory="x:y", files=wrong)})


# --- files beside the model ---


def test_extras_are_named_by_their_keys_and_put_in_their_places() -> None:
    options = {
        "projector": "auto",
        "lora": {"a.b": {"file": "hf:org/lora/a.gguf", "scale": 0.5}, "c": {"file": "/local.gguf"}},
        "control_vectors": [{"file": "/local.gguf"}, {"file": "https://example.org/v.gguf"}],
        "speculation": {"draft": {"file": "ollama:small"}},
    }
    config = ModelConfig(options=options)
    wanted = wanted_extras(GGUF, config)
    assert wanted == {
        "options.projector": "auto",
        "options.speculation.draft.file": "ollama:small",
        "options.lora.a.b.file": "hf:org/lora/a.gguf",
        "options.control_vectors.1.file": "https://example.org/v.gguf",
    }
    put = with_extras(config, {key: PATH / str(place) for place, key in enumerate(wanted)})
    assert put.options == {
        "projector": str(PATH / "0"),
        "lora": {"a.b": {"file": str(PATH / "2"), "scale": 0.5}, "c": {"file": "/local.gguf"}},
        "control_vectors": [{"file": "/local.gguf"}, {"file": str(PATH / "3")}],
        "speculation": {"draft": {"file": str(PATH / "1")}},
    }
    assert config.options == options
    assert with_extras(ModelConfig(), {PROJECTOR: PATH}).options == {"projector": str(PATH)}


def test_options_of_a_wrong_kind_name_no_files() -> None:
    strange = {"projector": 3, "lora": [1], "control_vectors": {"a": 1}, "speculation": "x"}
    assert wanted_extras(GGUF, ModelConfig(options=strange)) == {}
    assert wanted_extras(None, ModelConfig(options={"projector": "hf:a/b/c"})) == {}

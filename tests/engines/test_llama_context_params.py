"""How contexts are made: cache types, rotary positions, the split across GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from infs.config import DeviceConfig
from infs.engines.llama_cpp.checks import NO_LIMIT
from infs.engines.llama_cpp.contexts import CACHE_TYPES, context_params
from infs.engines.llama_cpp.gpus import Gpu, choose_split, find_split, list_gpus
from infs.errors import LoadFailed
from tests.engines.bare import CPU, bare_context, bare_model, options_of, scores
from tests.engines.llama import demo_server, text
from tests.tiny import write_bert, write_llama, write_mamba

PROMPT = list(b"the river and the stone")


def refused(path: Path, **options: Any) -> LoadFailed:
    """The refusal to load the model `path` with `options`."""
    with pytest.raises(LoadFailed) as caught, bare_model(path, **options):
        raise AssertionError("it was loaded")
    return caught.value


# --- cache types


def size_of_state(context: Any) -> int:
    return int(llama_cpp.llama_state_get_size(context))


def test_cache_types_hold_what_they_say(tmp_path: Path) -> None:
    """All of them give nearly the same scores; those with fewer bits take less room."""
    path = write_llama(tmp_path / "wide.gguf", heads=1)  # heads as large as a block
    sizes = {}
    with bare_model(path) as model, bare_context(model, cache_type_k="f32", cache_type_v="f32") as context:
        exact = scores(model, context, PROMPT)
    for name in CACHE_TYPES:
        types: dict[str, Any] = {"cache_type_k": name, "cache_type_v": name}
        with bare_model(path, **types) as model, bare_context(model, **types) as context:
            found = scores(model, context, PROMPT)
            sizes[name] = size_of_state(context)
        error = float(np.sqrt(np.mean((found - exact) ** 2)) / np.std(exact))
        assert error < {"f": 0.01, "b": 0.01, "q": 0.6, "i": 0.6}[name[0]], name
    assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_0"] > sizes["q5_1"] > sizes["q4_0"]


def test_keys_and_values_may_differ(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "wide.gguf", heads=1)
    for options in (
        {"cache_type_k": "q8_0"},
        {"cache_type_v": "q4_0"},
        {"cache_type_k": "q8_0", "flash_attention": False},
    ):
        with bare_model(path, **options) as model, bare_context(model, **options) as context:
            assert np.isfinite(scores(model, context, PROMPT)).all()


def test_quantised_values_need_flash_attention(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "wide.gguf", heads=1)
    error = refused(path, cache_type_v="q8_0", flash_attention=False)
    assert "needs flash attention, and options.flash_attention is false; leave that out" in error.message
    assert error.param == "options.cache_type_v"


@pytest.mark.parametrize("name", ["cache_type_k", "cache_type_v"])
@pytest.mark.parametrize("flash", [None, False])
def test_heads_must_fill_blocks(tmp_path: Path, name: str, flash: bool | None) -> None:
    """Without the check llama.cpp ends the process over some of these."""
    path = write_llama(tmp_path / "tiny.gguf")
    error = refused(path, **{name: "q4_0", "flash_attention": flash})
    assert "q4_0 stores 32 values together, and the model's heads have 8; use f16" in error.message
    assert error.param == f"options.{name}"


def test_models_without_a_cache_have_no_cache_types(tmp_path: Path) -> None:
    for path in (write_mamba(tmp_path / "mamba.gguf"), write_bert(tmp_path / "bert.gguf", pooling="mean")):
        assert "has no cache of keys and values" in refused(path, cache_type_k="bf16").message


async def test_a_server_with_a_small_cache_answers(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "wide.gguf", heads=1)
    async with demo_server(file=str(path), options={"cache_type_k": "q8_0", "cache_type_v": "q8_0"}) as server:
        result = await server.run(text("the river", max_tokens=8, ignore_eos=True))
        assert result.usage.completion_tokens == 8
    async with demo_server(file=str(path), options={"cache_type_v": "q8_0", "flash_attention": False}) as server:
        with pytest.raises(LoadFailed, match="needs flash attention"):
            await server.run(text("the river"))


# --- rotary positions


def rope_scores(path: Path, tokens: list[int], **rope: Any) -> np.ndarray:
    with bare_model(path, rope=rope) as model, bare_context(model, rope=rope) as context:
        return scores(model, context, tokens)


def test_positions_are_scaled(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    plain = rope_scores(path, PROMPT)
    for rope in (
        {"scaling": "linear", "freq_scale": 0.25},
        {"scaling": "yarn", "freq_scale": 0.25},
        {"freq_base": 100.0},
        {"scaling": "yarn", "freq_scale": 0.25, "yarn_ext_factor": 0.0, "yarn_attn_factor": 2.0},
        {"scaling": "yarn", "freq_scale": 0.25, "yarn_beta_fast": 2.0, "yarn_beta_slow": 0.5, "yarn_orig_ctx": 8},
    ):
        assert np.abs(rope_scores(path, PROMPT, **rope) - plain).max() > 1e-3, rope
    assert rope_scores(path, PROMPT, scaling="none") == pytest.approx(plain, abs=1e-5)
    assert rope_scores(path, PROMPT[:1], scaling="linear", freq_scale=0.25) == pytest.approx(
        rope_scores(path, PROMPT[:1]), abs=1e-5
    )  # there is nothing to scale at position 0


def test_all_options_reach_the_context() -> None:
    rope = {
        "scaling": "yarn",
        "freq_base": 5000.0,
        "freq_scale": 0.5,
        "yarn_ext_factor": 0.75,
        "yarn_attn_factor": 1.25,
        "yarn_beta_fast": 30.0,
        "yarn_beta_slow": 2.0,
        "yarn_orig_ctx": 512,
    }
    params = context_params(CPU, options_of(rope=rope))
    assert params.rope_scaling_type == llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN
    assert (params.rope_freq_base, params.rope_freq_scale) == (5000.0, 0.5)
    assert (params.yarn_ext_factor, params.yarn_attn_factor) == (0.75, 1.25)
    assert (params.yarn_beta_fast, params.yarn_beta_slow, params.yarn_orig_ctx) == (30.0, 2.0, 512)


@pytest.mark.parametrize(
    ("rope", "usable"),
    [
        ({}, 256),
        ({"scaling": "linear", "freq_scale": 0.25}, 1024),
        ({"freq_scale": 0.5}, 512),
        ({"scaling": "yarn", "freq_scale": 0.25, "yarn_orig_ctx": 100}, 400),
        ({"freq_base": 20_000.0}, NO_LIMIT),
        ({"freq_base": 5_000.0}, 256),
        ({"scaling": "none"}, 256),
    ],
)
def test_scaling_makes_room(tmp_path: Path, rope: dict[str, Any], usable: int) -> None:
    with bare_model(write_llama(tmp_path / "tiny.gguf"), rope=rope) as model, bare_context(model, rope=rope):
        assert model.usable_context == usable
        assert model.trained_context == 256


@pytest.mark.parametrize(
    ("rope", "param", "match"),
    [
        ({"scaling": "none", "freq_scale": 0.5}, "freq_scale", "nothing is scaled, since scaling is none"),
        ({"scaling": "yarn"}, "scaling", "freq_scale is 1, which scales nothing"),
        ({"scaling": "linear"}, "scaling", "freq_scale is 1, which scales nothing"),
        ({"scaling": "longrope"}, "scaling", "has no factors for longrope"),
        ({"yarn_beta_fast": 1.0}, "yarn_beta_fast", "the scaling is linear; set rope.scaling to yarn"),
        ({"scaling": "linear", "freq_scale": 0.5, "yarn_orig_ctx": 8}, "yarn_orig_ctx", "the scaling is linear"),
        ({"scaling": "yarn", "freq_scale": 0.5, "yarn_attn_factor": 1.0}, "yarn_attn_factor", "yarn_ext_factor is 0"),
        (
            {"scaling": "yarn", "freq_scale": 0.5, "yarn_ext_factor": -1.0},
            "yarn_ext_factor",
            "not a number of at least",
        ),
        ({"freq_base": float("inf")}, "freq_base", "inf is not a number"),
    ],
)
def test_options_without_effect_are_refused(tmp_path: Path, rope: dict[str, Any], param: str, match: str) -> None:
    error = refused(write_llama(tmp_path / "tiny.gguf"), rope=rope)
    assert match in error.message
    assert error.param == f"options.rope.{param}"


def test_models_without_rotary_positions(tmp_path: Path) -> None:
    for path in (write_mamba(tmp_path / "mamba.gguf"), write_bert(tmp_path / "bert.gguf", pooling="mean")):
        assert "has no rotary positions" in refused(path, rope={"freq_base": 5000.0}).message


async def test_the_note_about_length_goes_by_what_is_usable(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    rope = {"scaling": "yarn", "freq_scale": 0.25}
    for context, noted in ((1024, False), (1025, True)):
        async with demo_server(file=str(path), context_size=context, options={"rope": rope}) as server:
            await server.run(text("x", max_tokens=1))
            notes = (await server.status()).models["m"].instances[0].notes
        assert any("trained for" in note for note in notes) is noted


# --- GPUs


def gpus(*names: str, splits_rows: bool = True) -> list[Gpu]:
    return [Gpu(name=name, splits_rows=splits_rows) for name in names]


TWO = gpus("CUDA0", "CUDA1")


def test_the_split_is_what_the_options_say() -> None:
    split = choose_split(options_of(main_gpu=1), TWO)
    assert (split.mode, split.main_gpu, split.shares) == (llama_cpp.LLAMA_SPLIT_MODE_NONE, 1, [])
    split = choose_split(options_of(split_mode="row", tensor_split=[3, 1]), TWO)
    assert split.mode == llama_cpp.LLAMA_SPLIT_MODE_ROW
    assert split.shares[:3] == [3.0, 1.0, 0.0]
    assert len(split.shares) == llama_cpp.llama_max_devices()
    params = llama_cpp.llama_model_default_params()
    kept = split.put(params)
    assert (params.split_mode, params.main_gpu) == (llama_cpp.LLAMA_SPLIT_MODE_ROW, 0)
    assert params.tensor_split[:2] == [3.0, 1.0]
    assert len(kept) == len(split.shares)
    assert choose_split(options_of(tensor_split=[1]), TWO).mode == llama_cpp.LLAMA_SPLIT_MODE_LAYER
    assert find_split(CPU, options_of()) is None


@pytest.mark.parametrize(
    ("options", "found", "param", "match"),
    [
        ({"main_gpu": 2}, TWO, "main_gpu", "there is no GPU 2; there are 0: CUDA0, 1: CUDA1"),
        ({"main_gpu": 0, "split_mode": "layer"}, TWO, "main_gpu", "split by layer has no main GPU"),
        ({"tensor_split": [1, 1, 1]}, TWO, "tensor_split", "3 shares, and there are 2 GPUs: 0: CUDA0, 1: CUDA1"),
        ({"tensor_split": [0, 0]}, TWO, "tensor_split", "at least one share"),
        ({"tensor_split": [1], "split_mode": "none"}, TWO, "tensor_split", "nothing is split"),
        ({"split_mode": "row"}, gpus("Metal", splits_rows=False), "split_mode", "rows cannot be split on 0: Metal"),
        ({"split_mode": "layer"}, [], "split_mode", "supports none, or finds none"),
        ({"main_gpu": 0}, [], "main_gpu", "supports none, or finds none"),
    ],
)
def test_gpus_that_are_not_there(options: dict[str, Any], found: list[Gpu], param: str, match: str) -> None:
    with pytest.raises(LoadFailed, match=match) as caught:
        choose_split(options_of(**options), found)
    assert caught.value.param == f"options.{param}"


@pytest.mark.parametrize("options", [{"split_mode": "layer"}, {"main_gpu": 0}, {"tensor_split": [1.0]}])
def test_a_model_on_the_cpu_is_not_split(tmp_path: Path, options: dict[str, Any]) -> None:
    error = refused(write_llama(tmp_path / "tiny.gguf"), **options)
    assert "it is for GPUs, and device.gpu is false" in error.message


def test_the_gpus_of_this_build_are_listed() -> None:
    there = list_gpus(DeviceConfig())
    assert bool(there) == bool(llama_cpp.llama_supports_gpu_offload())
    assert list_gpus(DeviceConfig(gpu="nonsense")) == []

"""LoRA adapters and control vectors: equal to changed weights and states, chosen by name, refused where wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from infs.engines.llama_cpp.adapters import Adapters
from infs.engines.llama_cpp.model import LlamaModel
from infs.errors import InvalidRequest, LoadFailed
from infs.types import UNSET, EmbeddingRequest, LoraScale
from tests.engines.bare import bare_context, bare_model, greedy, options_of, scores
from tests.engines.llama import demo_server, native_log, text
from tests.tiny import lora_deltas, write_bert, write_control_vector, write_llama, write_lora

PROMPT = list(b"the river and the stone")


def adapters_of(model: LlamaModel, **options: Any) -> Adapters:
    return Adapters(model, options_of(**options), native_log(), lambda file, key: Path(file))


def scores_with(path: Path, key: Any = UNSET, **options: Any) -> np.ndarray:
    """The scores of the model `path` with these adapters and control vectors."""
    with bare_model(path) as model, bare_context(model, cache_type_k="f32", cache_type_v="f32") as context:
        adapters = adapters_of(model, **options)
        adapters.attach(context)
        adapters.apply(context, adapters.key(key))
        return scores(model, context, PROMPT)


# --- LoRA


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
def test_an_adapter_is_as_good_as_merged_weights(tmp_path: Path, scale: float) -> None:
    base = write_llama(tmp_path / "base.gguf")
    merged = write_llama(tmp_path / "merged.gguf", plus=lora_deltas(scale=scale))
    lora = write_lora(tmp_path / "lora.gguf")
    plain, expected = scores_with(base), scores_with(merged)
    changed = scores_with(base, lora={"a": {"file": str(lora), "scale": scale}})
    assert changed == pytest.approx(expected, abs=2e-3)
    assert np.abs(changed - plain).max() > 0.1


def test_two_adapters_add_up(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base.gguf")
    one, two = lora_deltas(scale=0.5), lora_deltas(scale=2.0, seed=8)
    merged = write_llama(tmp_path / "merged.gguf", plus={name: one[name] + two[name] for name in one})
    files = {
        "one": {"file": str(write_lora(tmp_path / "one.gguf")), "scale": 0.5},
        "two": {"file": str(write_lora(tmp_path / "two.gguf", seed=8)), "scale": 2.0},
    }
    assert scores_with(base, lora=files) == pytest.approx(scores_with(merged), abs=2e-3)


def test_requests_choose_their_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_llama(tmp_path / "base.gguf")
    lora = write_lora(tmp_path / "lora.gguf")
    calls: list[int] = []
    real = llama_cpp.llama_set_adapters_lora

    def count(context: Any, adapters: Any, number: int, scales: Any) -> int:
        calls.append(number)
        return int(real(context, adapters, number, scales))

    monkeypatch.setattr(llama_cpp, "llama_set_adapters_lora", count)
    with bare_model(base) as model, bare_context(model) as context:
        adapters = adapters_of(model, lora={"a": {"file": str(lora), "scale": 0.0}})
        adapters.attach(context)
        assert calls == []  # scale 0 is no adapter
        off = greedy(model, context, PROMPT, 12)
        adapters.apply(context, adapters.key([LoraScale(name="a")]))
        on = greedy(model, context, PROMPT, 12)
        adapters.apply(context, adapters.key([LoraScale(name="a")]))
        assert calls == [1]
        adapters.apply(context, adapters.key([]))
        assert calls == [1, 0]
        assert greedy(model, context, PROMPT, 12) == off != on
        adapters.detach(context)
        with pytest.raises(KeyError):
            adapters.apply(context, ())


def test_keys_are_canonical(tmp_path: Path) -> None:
    files = {
        name: {"file": str(write_lora(tmp_path / f"{name}.gguf")), "scale": scale}
        for name, scale in (("b", 0.5), ("a", 1.0), ("c", 0.0))
    }
    with bare_model(write_llama(tmp_path / "base.gguf")) as model:
        adapters = adapters_of(model, lora=files)
        assert adapters.names == ["a", "b", "c"]
        assert adapters.key() == (("a", 1.0), ("b", 0.5))
        wanted = [LoraScale(name="b", scale=0.5), LoraScale(name="a"), LoraScale(name="c", scale=0.0)]
        assert adapters.key(wanted) == adapters.key()
        assert adapters.key([LoraScale(name="c", scale=2.0)]) == (("c", 2.0),)
        assert adapters.key([]) == ()
        with pytest.raises(InvalidRequest, match="no adapter 'd'; it has: a, b, c") as caught:
            adapters.key([LoraScale(name="d")])
        assert caught.value.param == "lora"
        with pytest.raises(InvalidRequest, match="'a' twice"):
            adapters.key([LoraScale(name="a"), LoraScale(name="a")])
        with pytest.raises(InvalidRequest, match="no adapter 'a'; it has none"):
            adapters_of(model).key([LoraScale(name="a")])


def broken(path: Path) -> Path:
    """An adapter whose last bytes are missing."""
    write_lora(path)
    path.write_bytes(path.read_bytes()[:-64])
    return path


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: path, "cannot be read"),
        (lambda path: path.write_text("hello") and path, "no GGUF file: it starts with b'hell'"),
        (lambda path: path.write_bytes(b"GGUF" + b"\1" * 40) and path, "no valid GGUF file"),
        (write_llama, "is no LoRA adapter"),
        (lambda path: write_lora(path, kind="other"), "is no LoRA adapter"),
        (lambda path: write_lora(path, architecture="qwen3"), "made for qwen3 models, and this is a llama model"),
        (lambda path: write_lora(path, width=64), "could not be loaded; llama.cpp says: .*incorrect shape"),
        (lambda path: write_lora(path, invocation=[1, 2]), "aLoRA.*not supported"),
        (broken, "could not be loaded|not complete"),
    ],
)
def test_a_wrong_adapter_is_named(tmp_path: Path, make: Any, match: str) -> None:
    path = make(tmp_path / "lora.gguf")
    with bare_model(write_llama(tmp_path / "base.gguf")) as model:
        with pytest.raises(LoadFailed, match=match) as caught:
            adapters_of(model, lora={"mine": {"file": str(path)}})
        assert str(path) in str(caught.value)
        assert caught.value.param == "options.lora.mine.file"


# --- embeddings


async def embedding(path: Path, **model: Any) -> np.ndarray:
    """The vector that a server with the model `path` gives the prompt, before and after a chat with no adapters."""
    options = {"cache_type_k": "f32", "cache_type_v": "f32", **model.pop("options", {})}
    request = EmbeddingRequest(model="m", input=[PROMPT])
    async with demo_server(file=str(path), sha256=None, context_size=64, options=options, **model) as server:
        vector = (await server.run(request)).as_lists()
        if model.get("task") is None:
            await server.run(text(PROMPT, lora=[], max_tokens=1))
        assert (await server.run(request)).as_lists() == vector
    return np.array(vector[0])


@pytest.mark.parametrize("task", [None, "embedding"])
async def test_embeddings_have_the_configured_adapters(tmp_path: Path, task: Any) -> None:
    base = write_llama(tmp_path / "base.gguf")
    merged = write_llama(tmp_path / "merged.gguf", plus=lora_deltas(scale=0.5))
    lora = {"a": {"file": str(write_lora(tmp_path / "lora.gguf")), "scale": 0.5}}
    changed = await embedding(base, task=task, options={"lora": lora})
    assert changed == pytest.approx(await embedding(merged, task=task), abs=1e-3)
    assert np.abs(changed - await embedding(base, task=task)).max() > 0.01


@pytest.mark.parametrize("task", [None, "embedding"])
async def test_embeddings_have_the_control_vectors(tmp_path: Path, task: Any) -> None:
    base = write_llama(tmp_path / "base.gguf")
    vectors = [control(write_control_vector(tmp_path / "control.gguf"))]
    changed = await embedding(base, task=task, options={"control_vectors": vectors})
    assert np.abs(changed - await embedding(base, task=task)).max() > 0.01


@pytest.mark.parametrize("task", [None, "embedding"])
async def test_a_wrong_adapter_is_named_for_embeddings_too(tmp_path: Path, task: Any) -> None:
    base = write_llama(tmp_path / "base.gguf")
    lora = {"mine": {"file": str(write_lora(tmp_path / "lora.gguf", width=64))}}
    with pytest.raises(LoadFailed, match="incorrect shape"):
        await embedding(base, task=task, options={"lora": lora})


# --- control vectors


def control(path: Path, **options: Any) -> dict[str, Any]:
    return {"file": str(path), **options}


def test_control_vectors_change_the_layers_they_are_for(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base.gguf", layers=4)
    path = write_control_vector(tmp_path / "control.gguf", layers=4)
    plain = scores_with(base)
    whole = scores_with(base, control_vectors=[control(path)])
    assert np.abs(whole - plain).max() > 0.1
    parts = [control(path, first=1, last=1), control(path, first=2)]
    assert scores_with(base, control_vectors=parts) == pytest.approx(whole, abs=1e-4)
    assert np.abs(scores_with(base, control_vectors=parts[:1]) - whole).max() > 0.1
    assert np.abs(scores_with(base, control_vectors=parts[:1]) - plain).max() > 0.1
    against = [control(path, scale=2.0), control(path, scale=-2.0)]
    assert scores_with(base, control_vectors=against) == pytest.approx(plain, abs=1e-4)
    halves = [control(path, scale=0.25), control(path, scale=0.75)]
    assert scores_with(base, control_vectors=halves) == pytest.approx(whole, abs=1e-4)


def test_control_vectors_may_have_half_the_bits(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base.gguf")
    full = write_control_vector(tmp_path / "full.gguf")
    half = write_control_vector(tmp_path / "half.gguf", half=True)
    one, two = (scores_with(base, control_vectors=[control(path)]) for path in (full, half))
    assert one == pytest.approx(two, abs=0.02)


def test_a_large_control_vector_is_all_that_counts(tmp_path: Path) -> None:
    """Behind it come norms, which leave the direction of a state and not its length."""
    base = write_llama(tmp_path / "base.gguf")
    path = write_control_vector(tmp_path / "control.gguf")
    far, farther = (scores_with(base, control_vectors=[control(path, scale=scale)]) for scale in (50.0, 100.0))
    assert far == pytest.approx(farther, abs=0.2)
    assert np.abs(far - scores_with(base)).max() > 0.5


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda path: path, {}, "cannot be read"),
        (write_llama, {}, "is no control vector"),
        (lambda path: write_control_vector(path, width=16), {}, r"direction.1 has 16 values.*direction.1 with 32"),
        (lambda path: write_control_vector(path, first=2), {}, "another model: its tensor direction.2"),
        (lambda path: write_control_vector(path, first=0), {}, "another model: its tensor direction.0"),
        (write_control_vector, {"first": 2}, "layers 2 to 1 are not"),
        (write_control_vector, {"last": 2}, "layers 1 to 2 are not in the order of, or among, 1 to 1"),
    ],
)
def test_a_wrong_control_vector_is_named(tmp_path: Path, make: Any, options: dict[str, Any], match: str) -> None:
    path = make(tmp_path / "control.gguf")
    base = write_llama(tmp_path / "base.gguf")
    with bare_model(base) as model, pytest.raises(LoadFailed, match=match) as caught:
        adapters_of(model, control_vectors=[control(path, **options)])
    assert caught.value.param == "options.control_vectors[0]"


def test_an_encoder_has_no_place_for_control_vectors(tmp_path: Path) -> None:
    path = write_control_vector(tmp_path / "control.gguf")
    bert = write_bert(tmp_path / "bert.gguf", pooling="mean")
    with bare_model(bert) as model, pytest.raises(LoadFailed, match="models that generate text; a bert model does not"):
        adapters_of(model, control_vectors=[control(path)])

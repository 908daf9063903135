"""What a GGUF model takes, before it is loaded: counted in numbers, and against processes that load and serve it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks.estimates import Row, rows
from benchmarks.memory_use import Case, measure
from benchmarks.random_llama import FIRST_WORD, Shape, random_llama

from infs.config import DeviceConfig, ModelConfig, Preload
from infs.engines.base import Estimating, MemoryUse, ModelSetup, RunContext, Watched
from infs.engines.llama_cpp import estimating
from infs.engines.llama_cpp.engine import LlamaEngine
from infs.engines.llama_cpp.header_estimate import estimate_from_header, projector_compute, reads_whole_images
from infs.engines.llama_cpp.options import HOST_CACHE
from infs.engines.llama_cpp.places import Place, Places, find_places
from infs.engines.llama_cpp.reports import read_context, read_model
from infs.engines.memory import MIB, resident
from infs.errors import ConfigError, LoadFailed
from infs.store.gguf_header import read_gguf
from infs.types import EmbeddingRequest, Request, TextCompletionRequest
from tests.engines.kit import eventually
from tests.tiny import (
    write_audio_projector,
    write_bert,
    write_control_vector,
    write_grid_projector,
    write_image_projector,
    write_llama,
    write_lora,
    write_mamba,
    write_whole_projector,
)
from tests.tiny.files import TinyFile

WITHOUT = {"host_cache": 0, "disk_cache": 0}
CACHED = Shape("random-small-cache", 4, 512, 8, 8, 512, 2048, 1024)
CELL = 2 * 2 * 32 * 2  # bytes of a token in the cache of the tiny Llama: keys and values, layers, width, f16


def config_of(**settings: Any) -> ModelConfig:
    options = {**WITHOUT, **settings.pop("options", {})}
    return msgspec.convert({"device": {"gpu": False, "cpu_threads": 1}, **settings, "options": options}, ModelConfig)


def estimate(path: Path, **settings: Any) -> MemoryUse:
    setup = ModelSetup(model="m", path=path, config=config_of(**settings))
    return asyncio.run(LlamaEngine().estimate(setup))


# --- against what loading and serving takes


@pytest.mark.parametrize("kind", ["llama", "mamba", "bert"])
def test_the_estimate_is_what_a_process_takes(kind: str, folder: Path) -> None:
    """By far the most of the first one is its cache, of the second its states, of the third its weights."""
    if kind == "llama":
        path, first = random_llama(CACHED, folder), FIRST_WORD
        config = config_of(max_sequences=2, context_size=256, options={"cache_tokens": 16384, "cache_type_k": "q8_0"})
    elif kind == "mamba":
        path, first = write_mamba(folder / "wide.gguf", context=64, width=512, layers=4), 20
        config = config_of(max_sequences=16, task="chat-completion", options={"batch_tokens": 32})
    else:
        path, first = write_bert(folder / "wide-bert.gguf", pooling="mean", width=512, layers=12), 20
        config = config_of()
    found = measure(Case(path=path, config=config, first=first))
    assert abs(found.error) < 0.15, found
    assert abs(found.header_error) < 0.2, found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.model}, {row.settings}")
def test_the_estimate_of_a_real_size_is_what_a_process_takes(row: Row, tmp_path: Path) -> None:
    found = measure(row.case(tmp_path, None))
    assert abs(found.error) < 0.15, found
    assert abs(found.header_error) < 0.2, found


def test_huge_contexts_are_estimated_without_taking_their_memory(llama: Path) -> None:
    before = resident()
    for _ in range(3):
        use = estimate(llama, options={"cache_tokens": 2**20}, task="chat-completion")
    assert use.parts["context"] == pytest.approx(2**20 * CELL, rel=0.01)
    assert use.host > use.parts["context"]
    assert resident() - before < 100 * MIB


# --- what is counted


def test_the_cache_is_counted_as_it_is_made(llama: Path) -> None:
    plain = estimate(llama, task="chat-completion", options={"cache_tokens": 65536})
    assert plain.parts["context"] == pytest.approx((65536 + 256) * CELL, abs=2 * 0.01 * MIB)
    wide = {"cache_tokens": 65536, "cache_type_k": "q8_0", "cache_type_v": "f32", "flash_attention": True}
    with pytest.raises(LoadFailed, match="store"):  # heads of 8 values cannot be quantised: the header would lie
        asyncio.run(LlamaEngine().load(setup_of(llama, options=wide), lambda progress: None))
    use = estimate(llama, task="chat-completion", options={"cache_tokens": 65536, "cache_type_v": "f32"})
    assert use.parts["context"] / plain.parts["context"] == pytest.approx(1.5, rel=0.01)


def setup_of(path: Path, **settings: Any) -> ModelSetup:
    return ModelSetup(model="m", path=path, config=config_of(**settings))


def test_a_preload_takes_cells_on_top(llama: Path) -> None:
    settings: dict[str, Any] = {"task": "chat-completion", "context_size": 512}
    plain = estimate(llama, **settings)
    pinned = estimate(llama, preload={"prefix": "x" * 300}, **settings)
    more = pinned.parts["context"] - plain.parts["context"]
    assert 256 * CELL - 0.02 * MIB <= more <= 512 * CELL + 0.02 * MIB
    header = (
        estimate_from_header(llama, config_of(preload=Preload(prefix=text), **settings)) for text in ("x", "y" * 9000)
    )
    small, large = (use.parts["context"] for use in header)
    assert large > small


def test_embeddings_are_counted_where_they_may_be_asked_for(llama: Path) -> None:
    everything = estimate(llama, context_size=512)
    chats = estimate(llama, context_size=512, task="chat-completion")
    vectors = estimate(llama, context_size=512, task="embedding")
    assert everything.parts["context"] == pytest.approx(
        chats.parts["context"] + vectors.parts["context"], abs=0.05 * MIB
    )
    assert vectors.parts["context"] == pytest.approx(512 * CELL, abs=0.01 * MIB)


def test_what_comes_beside_the_model_is_counted(llama: Path, folder: Path) -> None:
    lora, control = write_lora(folder / "lora.gguf"), write_control_vector(folder / "control.gguf")
    image, draft = write_image_projector(folder / "image.gguf"), write_llama(folder / "draft.gguf", seed=1)
    parts = [
        {"lora": {"a": {"file": str(lora)}}},
        {"control_vectors": [{"file": str(control)}]},
        {"projector": str(image)},
        {"speculation": {"draft": {"file": str(draft)}}},
    ]
    for options, part, file in zip(
        parts, ("adapters", "adapters", "projector", "draft"), (lora, None, image, draft), strict=True
    ):
        weights = sum(tensor.bytes for tensor in read_gguf(file).tensors) if file else 2 * 4 * 32 * 2
        for use in (
            estimate(llama, options=options, task="chat-completion"),
            estimate_from_header(llama, config_of(options=options, task="chat-completion")),
        ):
            assert weights <= use.parts[part] < weights + 2 * MIB
    missing = {"lora": {"a": {"file": str(folder / "nothing.gguf")}}}
    with pytest.raises(LoadFailed, match=r"options\.lora\.a\.file: .*nothing\.gguf is not there"):
        estimate(llama, options=missing)


def test_projectors_of_all_kinds_are_known(folder: Path) -> None:
    image = read_gguf(write_image_projector(folder / "i.gguf"))
    whole = read_gguf(write_whole_projector(folder / "w.gguf"))
    assert [reads_whole_images(header) for header in (image, whole)] == [False, True]
    grid = read_gguf(write_grid_projector(folder / "g.gguf"))
    audio = read_gguf(write_audio_projector(folder / "a.gguf"))
    assert projector_compute(image, flash=True) == 4 * 16 * (6 * 32 + 2 * 64)
    assert projector_compute(image, flash=False) == 4 * 16 * (6 * 32 + 2 * 64 + 2 * 4 * 16)
    assert projector_compute(grid, flash=True) > projector_compute(image, flash=True)
    assert projector_compute(audio, flash=True) > projector_compute(image, flash=True)


def test_the_host_cache_is_what_can_be_done_without(llama: Path, folder: Path) -> None:
    elastic = estimate(llama, options={"host_cache": None})
    fixed = estimate(llama, options={"host_cache": 5 * MIB})
    none = estimate(llama)
    assert (elastic.spare, fixed.spare, none.spare) == (HOST_CACHE, 0, 0)
    assert (fixed.parts["cache"], none.parts.get("cache")) == (5 * MIB, None)
    assert "cache" not in elastic.parts
    vectors = write_bert(folder / "vectors.gguf", pooling="cls")
    assert estimate(vectors, options={"host_cache": None}).spare == 0
    grid = {"host_cache": None, "projector": str(write_grid_projector(folder / "grid.gguf"))}
    assert estimate(llama, options=grid).spare == 0


@pytest.mark.parametrize(("spare", "tiers"), [(None, True), (1 << 20, True), (0, False)])
async def test_loading_takes_no_more_than_is_granted(llama: Path, spare: int | None, tiers: bool) -> None:
    engine = LlamaEngine()
    config = config_of(task="chat-completion", context_size=256, options={"host_cache": None})
    await engine.load(ModelSetup(model="m", path=llama, config=config, spare=spare), lambda progress: None)
    try:
        assert bool(engine.status()["tiers"]) is tiers
    finally:
        await engine.close()


# --- by the header


@pytest.mark.parametrize("make", [write_llama, write_mamba, lambda path: write_bert(path, pooling="mean")])
def test_the_header_alone_says_nearly_the_same(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "model.gguf")
    asked, read = estimate(path), estimate_from_header(path, config_of())
    for part in ("weights", "context", "output"):
        assert read.parts.get(part, 0) == pytest.approx(asked.parts.get(part, 0), rel=0.1, abs=0.1 * MIB), part
    assert (read.spare, read.devices, read.machine) == (asked.spare, {}, [])


def test_what_cannot_be_simulated_is_estimated_by_its_header(tmp_path: Path) -> None:
    file = TinyFile(tmp_path / "new.gguf", "architecture-of-tomorrow")
    file.writer.add_block_count(2)
    file.tensor("token_embd.weight", 1000, 256)
    path = file.save()
    use = estimate(path)
    assert use.parts["weights"] == 1000 * 256 * 4
    absurd = TinyFile(tmp_path / "absurd.gguf", "architecture-of-tomorrow")
    absurd.writer.add_block_count(2**31)
    with pytest.raises(LoadFailed, match="claims to have 2147483648 layers"):
        estimate_from_header(absurd.save(), config_of())
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LoadFailed, match=r"damaged\.gguf could not be loaded; llama\.cpp says"):
        estimate(damaged)
    with pytest.raises(LoadFailed, match="is damaged"):
        estimate_from_header(damaged, config_of())
    with pytest.raises(LoadFailed, match="no file"):
        asyncio.run(LlamaEngine().estimate(ModelSetup(model="m", path=None, config=config_of())))
    with pytest.raises(ConfigError, match="unknown field `cache_token`"):
        estimate(path, options={"cache_token": 5})


# --- devices

LINES = [
    "load_tensors: layer   0 assigned to device CPU, is_swa = 0",
    "load_tensors: layer   1 assigned to device CUDA0, is_swa = 0",
    "load_tensors: layer   2 assigned to device CUDA1, is_swa = 0",
    "done_getting_tensors: tensor 'token_embd.weight' (q4_0) (and 9 others) cannot be used with preferred buffer "
    "type CUDA_Host, using CPU instead",
    "load_tensors:          CPU model buffer size =     0.00 MiB",
    "load_tensors:        CUDA0 model buffer size =     0.00 MiB",
]
CONTEXT = [
    "llama_context:  CUDA_Host  output buffer size =     0.50 MiB",
    "llama_kv_cache: layer   0: dev = CPU",
    "llama_kv_cache: layer   1: dev = CUDA0",
    "llama_kv_cache:        CPU KV buffer size =     0.00 MiB",
    "llama_kv_cache: size =   36.00 MiB ( 16640 cells,   2 layers, 65/1 seqs), K (f16):   18.00 MiB, "
    "V (f16):   18.00 MiB",
    "llama_memory_recurrent:      CUDA1 RS buffer size =     3.00 MiB",
    "llama_memory_recurrent: size =    3.00 MiB (    65 cells,   1 layers, 65 seqs  0 rs_seq), R (f32):    1.00 MiB, "
    "S (f32):    2.00 MiB, P (f32):    0.00 MiB",
    "sched_reserve:      CUDA0 compute buffer size =   98.25 MiB",
    "sched_reserve:  CUDA_Host compute buffer size =     1.00 MiB",
]


def test_the_log_of_several_devices_is_read() -> None:
    model, context = read_model(LINES), read_context(CONTEXT)
    assert (model.layers, model.moved, model.repacks) == ({0: "CPU", 1: "CUDA0", 2: "CUDA1"}, 10, False)
    assert context.cache == {"CPU": 18 * MIB, "CUDA0": 18 * MIB}
    assert context.states == {"CUDA1": 3 * MIB}
    assert context.compute == {"CUDA0": round(98.25 * MIB), "CUDA_Host": MIB}
    assert context.output == {"CUDA_Host": MIB // 2}


def test_names_of_buffers_are_those_of_devices() -> None:
    places = Places([Place(native="CUDA0", name="cuda:0"), Place(native="MTL0", name="metal:0", shared=True)])
    found = {
        name: place and place.name
        for name in ("CUDA0", "CUDA_Host", "CPU", "MTL0_Mapped", "CPU_REPACK")
        if (place := places.of(name)) or True
    }
    assert found == {"CUDA0": "cuda:0", "CUDA_Host": None, "CPU": None, "MTL0_Mapped": "metal:0", "CPU_REPACK": None}
    assert places.first is not None
    assert places.first.name == "cuda:0"
    nothing, machine = find_places(DeviceConfig(gpu=False))
    assert (nothing.first, machine) == (None, [])
    assert isinstance(find_places(DeviceConfig())[1], list)


@pytest.mark.parametrize("shared", [True, False])
def test_devices_are_counted_apart(monkeypatch: pytest.MonkeyPatch, llama: Path, shared: bool) -> None:
    """The CPU stands for a device whose memory is, or is not, main memory."""
    plain = estimate(llama, task="chat-completion")
    places = Places([Place(native="CPU", name="cuda:0", shared=shared)])
    monkeypatch.setattr(estimating, "find_places", lambda device: (places, []))
    use = estimate(llama, task="chat-completion")
    there = sum(use.parts[part] for part in ("weights", "context", "compute", "driver"))
    assert use.devices == {"cuda:0": there}
    here = sum(size for part, size in use.parts.items() if part in ("process", "output"))
    assert use.host == here + (there - use.parts["driver"] if shared else 0)
    assert use.parts["context"] == plain.parts["context"]


# --- steps that hang


async def test_a_step_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch, llama: Path) -> None:
    engine = LlamaEngine()
    assert isinstance(engine, Estimating)
    assert isinstance(engine, Watched)
    assert engine.stalled() == 0.0
    await engine.load(setup_of(llama, context_size=256), lambda progress: None)
    try:
        await check_hanging(engine, monkeypatch)
    finally:
        await engine.close()
    assert engine.stalled() == 0.0


async def check_hanging(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch of the loop or of the embedder hangs, and only then, time goes by."""
    embedder = await engine._get_embedder()
    assert engine._machine is not None
    text = TextCompletionRequest(model="m", prompt="abc", max_tokens=2)
    vector = EmbeddingRequest(model="m", input=["abc"])
    await check_waiting(engine, engine._machine.decoder, "decode", text, monkeypatch)
    await check_waiting(engine, embedder._batch, "compute", vector, monkeypatch)


async def check_waiting(
    engine: LlamaEngine, owner: Any, name: str, request: Request[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, go_on = getattr(owner, name), threading.Event()

    def hang(*arguments: Any) -> Any:
        go_on.wait(30)
        return compute(*arguments)

    monkeypatch.setattr(owner, name, hang)
    assert engine.stalled() == 0.0
    running = asyncio.ensure_future(result_of(engine, request))
    await eventually(lambda: engine.stalled() > 0.0)
    first = engine.stalled()
    await eventually(lambda: engine.stalled() > first)
    go_on.set()
    await running
    await eventually(lambda: engine.stalled() == 0.0)


async def result_of(engine: LlamaEngine, request: Request[Any]) -> Any:
    async for event in engine.run(request, RunContext(request_id=1)):
        result = event
    return result

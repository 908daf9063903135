"""Images and audio: read, encoded, computed into sequences; the same content is the same, and nothing else is."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from infs.batching.base import Chunk, Copy, Remove
from infs.batching.blocks import block_end, whole
from infs.engines.llama_cpp.decoder import Batch
from infs.engines.llama_cpp.media import MediaPrompt, Projector
from infs.engines.llama_cpp.media_cells import MediaCells, Positions
from infs.engines.llama_cpp.media_formats import MOST_MP3, check_media
from infs.engines.llama_cpp.model import LlamaModel
from infs.errors import GenerationFailed, InvalidRequest, LoadFailed
from tests.engines.bare import CPU, bare_context, bare_model, more_scores, options_of, scores, scores_at
from tests.engines.llama import native_log
from tests.tiny import write_audio_projector, write_bert, write_grid_projector, write_image_projector, write_llama
from tests.tiny.media import bmp, flac, mp3, png, wav
from tests.tiny.projector import AUDIO_CELLS, IMAGE_CELLS

BEFORE, AFTER = list(b"look: "), list(b" what is it?")
GIF = base64.b64decode("R0lGODlhAQABAIAAAP///wAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==")
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////"
    "////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA="
)


@contextmanager
def loaded(folder: Path, write: Any = write_image_projector) -> Iterator[tuple[LlamaModel, Projector]]:
    """A tiny model that sees, or hears."""
    path = write(folder / "mmproj.gguf")
    architecture = "qwen2vl" if write is write_grid_projector else "llama"
    with bare_model(write_llama(folder / "model.gguf", architecture=architecture)) as model:
        projector = Projector(model, path, CPU, options_of(), native_log())
        try:
            yield model, projector
        finally:
            projector.close()


def compute(model: LlamaModel, projector: Projector, context: Any, prompt: MediaPrompt) -> np.ndarray:
    """The scores behind `prompt`, computed in an empty cache."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    index = position = 0
    result = np.empty(0)
    while index < len(prompt.tokens):
        chunk = prompt.chunks.get(index)
        if chunk is not None:
            position = projector.decode(context, chunk, seq=0, start=position)
            index += chunk.cells
            continue
        end = min((start for start in prompt.chunks if start > index), default=len(prompt.tokens))
        result = scores_at(model, context, prompt.tokens[index:end], position)
        position += end - index
        index = end
    assert position == prompt.length
    return result


@pytest.mark.parametrize(
    ("write", "make", "cells"),
    [(write_image_projector, png, IMAGE_CELLS), (write_audio_projector, wav, AUDIO_CELLS)],
)
def test_the_same_media_give_the_same_scores(tmp_path: Path, write: Any, make: Any, cells: int) -> None:
    with loaded(tmp_path, write) as (model, projector), bare_context(model) as context:
        assert (projector.vision, projector.audio) == (make is png, make is wav)
        assert not projector.mrope
        assert not projector.non_causal
        plain = scores(model, context, BEFORE + AFTER)
        first, again, other = (projector.read([BEFORE, make(seed), AFTER]) for seed in (1, 1, 2))
        assert [(c.kind, c.cells, c.positions) for c in first.chunks.values()] == [
            ("image" if make is png else "audio", cells, cells)
        ]
        one, two, three = (compute(model, projector, context, prompt) for prompt in (first, again, other))
        assert two == pytest.approx(one, abs=1e-5)
        assert np.abs(three - one).max() > 0.01
        assert np.abs(plain - one).max() > 0.01
        assert scores(model, context, BEFORE + AFTER) == pytest.approx(plain, abs=1e-5)
    with bare_model(tmp_path / "model.gguf") as model, bare_context(model) as context:
        assert scores(model, context, BEFORE + AFTER) == pytest.approx(plain, abs=1e-5)


def test_stand_ins_are_those_of_the_content(tmp_path: Path) -> None:
    with loaded(tmp_path) as (_, projector):
        first, again, other = (projector.read([BEFORE, png(seed), AFTER]) for seed in (1, 1, 2))
        elsewhere = projector.read([AFTER, BEFORE, png(1)])
    start, end = len(BEFORE), len(BEFORE) + IMAGE_CELLS
    assert first.tokens == again.tokens
    assert (first.tokens[:start], first.tokens[end:]) == (BEFORE, AFTER)
    stand_ins = first.tokens[start:end]
    assert len(set(stand_ins)) == IMAGE_CELLS
    assert max(stand_ins) < 0
    assert not set(stand_ins) & set(other.tokens)
    assert elsewhere.tokens[-IMAGE_CELLS:] == stand_ins
    assert block_end(first.tokens, start) == end
    assert [whole(first.tokens, count) for count in (start, start + 1, end - 1, end)] == [start, start, start, end]


def test_several_images_in_their_order(tmp_path: Path) -> None:
    with loaded(tmp_path) as (model, projector), bare_context(model) as context:
        one, two = png(1), png(2)
        found = [
            compute(model, projector, context, projector.read([BEFORE, *images, AFTER]))
            for images in ((one, two), (two, one), (one, one))
        ]
        assert len(projector.read([one, BEFORE, two]).chunks) == 2
    assert np.abs(found[0] - found[1]).max() > 0.005
    assert np.abs(found[0] - found[2]).max() > 0.005


def test_a_chunk_may_be_computed_in_batches(tmp_path: Path) -> None:
    with loaded(tmp_path) as (model, projector):
        prompt = projector.read([BEFORE, png(3), AFTER])
        found = []
        for batch in (64, 5):
            with bare_context(model, batch=batch) as context:
                found.append(compute(model, projector, context, prompt))
        assert found[0] == pytest.approx(found[1], abs=0.02)
        (chunk,) = prompt.chunks.values()
        chunk.non_causal = True
        with (
            bare_context(model, batch=5) as context,
            pytest.raises(GenerationFailed, match=r"16 tokens.*batch holds 5"),
        ):
            projector.decode(context, chunk, seq=0, start=0)


def test_a_chunk_that_is_not_causal_sees_all_of_itself(tmp_path: Path) -> None:
    """What llama.cpp does for such a model: attention in both directions, and back to one direction behind it."""
    with loaded(tmp_path) as (model, projector), bare_context(model) as context:
        plain = scores(model, context, BEFORE)
        vectors = [np.zeros(0)] * 2
        prompt = projector.read([png(1), AFTER])
        for index, causal in enumerate((True, False)):
            llama_cpp.llama_set_causal_attn(context, causal)
            vectors[index] = compute(model, projector, context, prompt)
        llama_cpp.llama_set_causal_attn(context, True)
        assert np.abs(vectors[0] - vectors[1]).max() > 0.005
        assert scores(model, context, BEFORE) == pytest.approx(plain, abs=1e-5)


def test_sequences_do_not_see_each_other_s_images(tmp_path: Path) -> None:
    with loaded(tmp_path) as (model, projector), bare_context(model) as context:
        plain = scores(model, context, BEFORE)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        (chunk,) = projector.read([png(1)]).chunks.values()
        assert projector.decode(context, chunk, seq=1, start=0) == IMAGE_CELLS
        assert more_scores(model, context, BEFORE) == pytest.approx(plain, abs=1e-3)
        memory = llama_cpp.llama_get_memory(context)
        assert llama_cpp.llama_memory_seq_pos_max(memory, 1) == IMAGE_CELLS - 1


def test_images_with_fewer_positions_than_cells(tmp_path: Path) -> None:
    """Sequences count cells; `Positions` finds the positions, also of a copy that goes on by itself."""
    image = png(1, width=40, height=24)
    with loaded(tmp_path, write_grid_projector) as (model, projector), bare_context(model) as context:
        assert projector.mrope
        prompt = projector.read([BEFORE, image, AFTER])
        ((start, chunk),) = prompt.chunks.items()
        assert (chunk.cells, chunk.positions) == (15, 5)
        assert prompt.length == len(prompt.tokens) - 10
        whole = compute(model, projector, context, prompt)
        other = compute(model, projector, context, projector.read([BEFORE, png(2, width=40, height=24), AFTER]))
        assert np.abs(whole - other).max() > 0.005
        compute(model, projector, context, prompt)

        positions, memory = Positions(), llama_cpp.llama_get_memory(context)
        end = start + chunk.cells
        positions.put(0, start, cells=chunk.cells, positions=chunk.positions)
        llama_cpp.llama_memory_seq_cp(memory, 0, 1, positions.at(0, 0), positions.at(0, end))
        positions.copy(0, 1, 0, end)
        llama_cpp.llama_memory_seq_rm(memory, 0, -1, -1)
        positions.remove(0, 0, -1)
        llama_cpp.llama_memory_seq_cp(memory, 1, 0, 0, positions.at(1, end))
        positions.copy(1, 0, 0, end)
        assert positions.at(0, end) == start + chunk.positions
        rest = prompt.tokens[end:]
        assert scores_at(model, context, rest, positions.at(0, end)) == pytest.approx(whole, abs=1e-3)


def test_vectors_are_computed_once(tmp_path: Path) -> None:
    with loaded(tmp_path) as (_, projector):
        (chunk,) = projector.read([png(1)]).chunks.values()
        (other,) = projector.read([png(2)]).chunks.values()
        vectors = projector.encode(chunk)
        assert vectors.shape == (IMAGE_CELLS, 32)
        assert projector.encode(chunk) is vectors
        kept = vectors.copy()
        assert np.abs(projector.encode(other) - kept).max() > 0.01
        assert (vectors == kept).all()
        (again,) = projector.read([png(1)]).chunks.values()
        assert projector.encode(again) is vectors  # a conversation comes back with the same image
        (late,) = projector.read([png(4)]).chunks.values()
        projector.close()
        assert projector.encode(chunk) is vectors
        with pytest.raises(GenerationFailed, match="unloaded"):
            projector.encode(late)
        with pytest.raises(GenerationFailed, match="unloaded"):
            projector.read([png(3)])


# --- files


@pytest.mark.parametrize("data", [png(1), bmp(1), GIF, JPEG, png(1, width=40, height=9)], ids=range(5))
def test_formats_of_images(tmp_path: Path, data: bytes) -> None:
    with loaded(tmp_path) as (_, projector):
        (chunk,) = projector.read([data]).chunks.values()
        assert chunk.cells == IMAGE_CELLS
        assert np.isfinite(projector.encode(chunk)).all()


@pytest.mark.parametrize(
    "data", [wav(1), wav(1, rate=44100), flac(1), mp3(), b"ID3\4\0\0\0\0\0\0" + mp3()], ids=range(5)
)
def test_formats_of_audio(tmp_path: Path, data: bytes) -> None:
    with loaded(tmp_path, write_audio_projector) as (_, projector):
        (chunk,) = projector.read([data]).chunks.values()
        assert chunk.kind == "audio"
        assert np.isfinite(projector.encode(chunk)).all()


def test_a_model_that_takes_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(tmp_path) as (_, projector):
        monkeypatch.setattr(projector, "_type", "hunyuanvl")
        assert len(projector.read([BEFORE, png(1)]).chunks) == 1
        with pytest.raises(InvalidRequest, match="takes one image"):
            projector.read([png(1), BEFORE, png(2)])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "it is empty"),
        (b"hello world!", "starts with b'hello wo'.*JPEG, PNG"),
        (b"RIFF\0\0\0\0WEBP" + bytes(20), "no image or audio that can be read"),
        (png(1)[:60], "damaged"),
        (png(1)[:12], "damaged"),
        (b"\xff\xd8\xff\xe0\0\x10", "damaged"),
        (b"GIF89a", "damaged"),
        (bmp(1)[:20], "damaged"),
        (png(1)[:16] + struct.pack(">II", 60_000, 60_000) + png(1)[24:], "60000 x 60000 pixels"),
        (png(1)[:16] + struct.pack(">II", 0, 5) + png(1)[24:], "damaged"),
        (wav(1), "has audio; this model reads images only"),
    ],
    ids=range(11),
)
def test_files_that_are_no_images(tmp_path: Path, data: bytes, match: str) -> None:
    with loaded(tmp_path) as (_, projector):
        with pytest.raises(InvalidRequest, match=match) as caught:
            projector.read([BEFORE, data], "messages[0].content[1]")
        assert caught.value.param == "messages[0].content[1]"
        assert len(projector.read([png(1)]).tokens) == IMAGE_CELLS


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (wav(1)[:-100], "damaged"),
        (wav(1)[:30], "damaged"),
        (wav(1, rate=2), "lasts 4000 s"),
        (b"fLaC" + bytes(14) + struct.pack(">Q", (44_100 << 44) | (2**36 - 1)) + bytes(30), "lasts 1558265 s"),
        (b"fLaC" + bytes(40), "damaged"),
        (b"ID3" + bytes(100), "damaged"),
        (b"ID3" + bytes(MOST_MP3), "an MP3 may have"),
        (png(1), "has image; this model reads audio only"),
    ],
    ids=range(8),
)
def test_files_that_are_no_audio(tmp_path: Path, data: bytes, match: str) -> None:
    with loaded(tmp_path, write_audio_projector) as (_, projector):
        with pytest.raises(InvalidRequest, match=match):
            projector.read([data])
        assert len(projector.read([wav(1)]).chunks) == 1


def test_kinds_are_known_by_their_beginnings() -> None:
    assert {check_media(data, "x") for data in (png(), bmp(), GIF, JPEG)} == {"image"}
    assert {check_media(data, "x") for data in (wav(), b"ID3" + bytes(9), b"\xff\xfb" + bytes(9))} == {"audio"}


# --- projectors


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: path, "cannot be read"),
        (lambda path: path.write_text("hello") and path, "no GGUF file"),
        (write_llama, "is no projector: it is a model of its own"),
        (lambda path: write_bert(path, pooling="mean"), "is no projector"),
        (lambda path: write_image_projector(path, width=64), "could not be loaded; llama.cpp says: .*mismatch"),
    ],
)
def test_a_wrong_projector_is_named(tmp_path: Path, make: Any, match: str) -> None:
    path = make(tmp_path / "mmproj.gguf")
    model_path = write_llama(tmp_path / "model.gguf")
    with bare_model(model_path) as model, pytest.raises(LoadFailed, match=match) as caught:
        Projector(model, path, CPU, options_of(), native_log())
    assert str(path) in str(caught.value)
    assert caught.value.param == "options.projector"


# --- cells


class Cells:
    """A context that computes chunks with media, as a decoder does."""

    def __init__(self, model: LlamaModel, projector: Projector, context: Any) -> None:
        self._model, self._context = model, context
        self._batch = Batch(64)
        self.media = MediaCells(projector, context, self._compute)

    def _compute(self, chunks: list[Chunk]) -> list[int]:
        rows = self._batch.fill(chunks)
        self._batch.compute(self._context)
        return rows

    def decode(self, *chunks: Chunk) -> list[np.ndarray]:
        """The scores behind each chunk that wants some."""
        rest = [chunk for chunk in self.media.lead(chunks) if chunk.tokens]
        rows = self._compute(rest) if rest else []
        pointers = [
            llama_cpp.llama_get_logits_ith(self._context, row)
            for row, chunk in zip(rows, rest, strict=True)
            if chunk.logits
        ]
        return [np.ctypeslib.as_array(pointer, (self._model.size,)).copy() for pointer in pointers]

    def apply(self, op: Copy | Remove) -> None:
        told = self.media.translate(op)
        memory = llama_cpp.llama_get_memory(self._context)
        if isinstance(told, Copy):
            llama_cpp.llama_memory_seq_cp(memory, told.source, told.target, told.start, told.end)
        elif isinstance(told, Remove):
            llama_cpp.llama_memory_seq_rm(memory, told.seq, told.start, told.end)


@pytest.mark.parametrize("write", [write_image_projector, write_grid_projector])
def test_sequences_with_media_side_by_side(tmp_path: Path, write: Any) -> None:
    """Chunks with and without media in one step, and beginnings shared by copies that count tokens."""
    pictures = [png(seed, width=40, height=24) for seed in (1, 2)]
    with loaded(tmp_path, write) as (model, projector), bare_context(model) as context:
        cells = Cells(model, projector, context)
        prompt = projector.read([BEFORE, pictures[0], pictures[1], AFTER])
        alone = compute(model, projector, context, prompt)
        plain = scores(model, context, BEFORE)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        cells.media.share(prompt.chunks.values())

        with_media, without = cells.decode(Chunk(1, 0, prompt.tokens, 1), Chunk(2, 0, BEFORE, 1))
        assert with_media == pytest.approx(alone, abs=0.02)
        assert without == pytest.approx(plain, abs=0.02)

        *_, last = prompt.chunks
        end = last + prompt.chunks[last].cells
        cells.apply(Copy(1, 3, 0, end))
        cells.apply(Remove(1, 0))
        (again,) = cells.decode(Chunk(3, end, prompt.tokens[end:], 1))
        assert again == pytest.approx(alone, abs=0.02)

        cells.apply(Remove(3, last))
        assert cells.decode(Chunk(3, last, prompt.tokens[last:end], 0)) == []
        (once_more,) = cells.decode(Chunk(3, end, prompt.tokens[end:], 1))
        assert once_more == pytest.approx(alone, abs=0.02)

        with pytest.raises(GenerationFailed, match="in the middle of an image"):
            cells.decode(Chunk(0, 0, prompt.tokens[last + 1 :], 1))
        with pytest.raises(GenerationFailed, match="Scores are wanted"):
            cells.decode(Chunk(0, 0, prompt.tokens[last:end], 1))


def test_media_can_be_computed_as_long_as_somebody_holds_them(tmp_path: Path) -> None:
    with loaded(tmp_path) as (model, projector), bare_context(model) as context:
        cells = Cells(model, projector, context)
        tokens = projector.read([png(1), AFTER]).tokens
        one, two = (cells.media.share(projector.read([png(1), AFTER]).chunks.values()) for _ in range(2))
        assert one == two
        del one
        assert len(cells.decode(Chunk(0, 0, tokens, 1))) == 1
        del two
        with pytest.raises(GenerationFailed, match="not there"):
            cells.decode(Chunk(1, 0, tokens, 1))


# --- positions


def test_positions_behind_images_that_take_fewer() -> None:
    positions = Positions()
    positions.put(0, 3, cells=12, positions=4)
    positions.put(0, 20, cells=9, positions=3)
    positions.put(0, 40, cells=5, positions=5)
    assert [positions.at(0, index) for index in (0, 3, 15, 20, 29, 45)] == [0, 3, 7, 12, 15, 31]
    assert positions.at(1, 29) == 29
    positions.copy(0, 1, 0, 15)
    assert [positions.at(1, index) for index in (15, 20, 29)] == [7, 12, 21]
    positions.copy(0, 1, 15, 45)
    assert positions.at(1, 29) == 15
    positions.remove(0, 20, -1)
    assert [positions.at(0, index) for index in (15, 29)] == [7, 21]
    positions.remove(0, 0, 20)
    assert positions.at(0, 29) == 29
    assert positions.at(1, 29) == 15

"""Chat about images with a model that cannot see: a vision model describes them first.

python examples/images_described.py photo.jpg "What is this?" --vision vision.gguf --projector mmproj.gguf
"""

from __future__ import annotations

import argparse
from pathlib import Path

from combining import add_model, model_of, start, tell
from infs import InferenceServer, Message, ModelConfig
from infs.engines.base import EngineSpec
from infs.types import ContentPart, ImagePart, TextPart
from media_as_text import MediaAsText, MediaOptions


class ImageOptions(MediaOptions, frozen=True, kw_only=True):
    """Options of the engine; see `MediaOptions`."""

    instruction: str = "Describe this image in detail, and write down all text in it."
    wording: str = "(Image {number} shows: {text})"


class ImagesDescribed(MediaAsText):
    """Puts descriptions in the place of images."""

    options_type = ImageOptions
    kind = ImagePart
    doing = "describing images"


ENGINE = EngineSpec(
    name="images-described", factory=ImagesDescribed, options=ImageOptions, in_process=True, needs_files=False
)


def main() -> None:
    """Answer a question about image files."""
    parser = argparse.ArgumentParser(description="Ask a text model about images, which a vision model describes.")
    parser.add_argument("images", nargs="+", type=Path, help="JPEG, PNG, BMP or GIF files")
    parser.add_argument("question")
    add_model(parser, "vision", "the model that sees", projector=True)
    add_model(parser, "chat", "the model that answers")
    arguments = parser.parse_args()
    models = {
        "vision": model_of(arguments.vision, arguments.projector),
        "chat": model_of(arguments.chat),
        "seeing-chat": ModelConfig(engine=ENGINE.name, options={"reader": "vision", "chat": "chat"}),
    }
    parts: list[ContentPart] = [ImagePart(data=path.read_bytes()) for path in arguments.images]
    question = Message(role="user", content=[*parts, TextPart(text=arguments.question)])
    with InferenceServer.sync(models, {ENGINE.name: ENGINE}) as server:
        tell(server.chat_completion.stream(model="seeing-chat", messages=[question]))


if __name__ == "__main__":
    start(main)

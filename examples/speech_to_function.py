"""Say what you want done: a model that hears writes it down, another one calls the function that does it, and answers.

python examples/speech_to_function.py question.wav --hearing hearing.gguf --projector mmproj.gguf
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from combining import add_model, model_of, start, tell
from infs import InferenceServer, Message, ModelConfig, tool
from infs.engines.base import EngineSpec
from infs.types import AudioPart
from media_as_text import MediaAsText, MediaOptions


class SpeechOptions(MediaOptions, frozen=True, kw_only=True):
    """Options of the engine; see `MediaOptions`."""

    instruction: str = "Write down what is said, word for word, and nothing else."
    wording: str = "{text}"


class SpeechWritten(MediaAsText):
    """Puts what is said in the place of audio.

    Functions are the server's business: it offers them to this engine as to any other, runs what is called, and asks
    again with the results. What was said is remembered meanwhile.
    """

    options_type = SpeechOptions
    kind = AudioPart
    doing = "listening"


ENGINE = EngineSpec(
    name="speech-written", factory=SpeechWritten, options=SpeechOptions, in_process=True, needs_files=False
)

FORECASTS = {"Rome": "sunny, 21 degrees", "Paris": "rainy, 8 degrees"}


@tool
def get_weather(location: Annotated[str, Meta(description="The name of the city")]) -> str:
    """Get the weather in a location"""
    return FORECASTS.get(location, "unknown")


def main() -> None:
    """Do what an audio file says."""
    parser = argparse.ArgumentParser(description="Ask for the weather in Rome or Paris, aloud.")
    parser.add_argument("audio", type=Path, help="a WAV, MP3 or FLAC file")
    add_model(parser, "hearing", "the model that hears", projector=True)
    add_model(parser, "chat", "the model that calls functions and answers")
    arguments = parser.parse_args()
    models = {
        "hearing": model_of(arguments.hearing, arguments.projector),
        "chat": model_of(arguments.chat),
        "voice": ModelConfig(engine=ENGINE.name, options={"reader": "hearing", "chat": "chat"}),
    }
    said = Message(role="user", content=[AudioPart(data=arguments.audio.read_bytes())])
    with InferenceServer.sync(models, {ENGINE.name: ENGINE}) as server:
        ask = server.chat_completion.stream
        tell(ask(model="voice", messages=[said], tools=[get_weather], tool_choice="required"))


if __name__ == "__main__":
    start(main)

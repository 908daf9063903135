"""The model that ships with the package: 2.8 million parameters, 3 MB, a context of 1024 tokens.

It is there so that everything can be tried, and tested, without a download. `training/` made it.
"""

from __future__ import annotations

from pathlib import Path

from infs.config import DeviceConfig, ModelConfig

MODEL_ID = "demo"
MODEL_FILE = Path(__file__).parent / "demo.gguf"


def demo_model() -> ModelConfig:
    """The configuration of the demo model: greedy unless a request says otherwise, and on one thread.

    (Its steps take a fraction of a millisecond, too little to share: threads would spend it waiting for each other.)
    """
    return ModelConfig(
        file=str(MODEL_FILE), completion_defaults={"temperature": 0.0}, device=DeviceConfig(cpu_threads=1)
    )

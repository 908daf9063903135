"""The bounds of histograms: those of vLLM and of OpenTelemetry's conventions, so that their dashboards fit."""

from __future__ import annotations

LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
INTER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
TOKENS = tuple(factor * 10**power for power in range(6) for factor in (1, 2, 5))
CHOICES = (1, 2, 5, 10, 20)

GEN_AI_DURATION = tuple(0.01 * 2**power for power in range(14))
GEN_AI_FIRST_TOKEN = FIRST_TOKEN[:16]
GEN_AI_OUTPUT_TOKEN = INTER_TOKEN[:13]
GEN_AI_TOKENS = tuple(4**power for power in range(14))

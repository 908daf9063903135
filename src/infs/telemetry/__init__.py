"""What a server tells about itself: metrics that Prometheus reads, and traces of requests for OpenTelemetry."""

from infs.telemetry.observation import Observation
from infs.telemetry.telemetry import Telemetry

__all__ = ["Observation", "Telemetry"]

"""The page about monitoring, whose list of metrics is made of the metrics themselves."""

from __future__ import annotations

from collections.abc import Iterable

from infs.telemetry.described import Described
from infs.telemetry.telemetry import Telemetry

HEAD = """\
# Monitoring

The list of metrics on this page is made of the metrics themselves: `python -m infs.telemetry.document >
docs/monitoring.md` writes the page anew.

## Status

`GET /` says how the server is at the moment: models and their instances, queues, sequences, cache tiers, downloads and
the memory of all devices. In Python it is `await server.status()`; the module `infs.status` describes its fields.

## Metrics

`GET /metrics` is for Prometheus, and speaks its text format or OpenMetrics, whichever is asked for. Where
`server.api_keys` are set it wants one of them, like all other routes:

```yaml
scrape_configs:
  - job_name: infs
    static_configs:
      - targets: ["127.0.0.1:3000"]
    authorization:
      credentials: the-key # only where there are keys
```

In Python it is `await server.metrics()`; the registry of `prometheus_client` is `server.telemetry.registry`.

Names, labels and buckets are those of vLLM where it has such a metric, so that dashboards made for it work; then those
of OpenTelemetry's conventions for generative AI; the others begin with `infs_`. `model_name` is one of the configured
models: requests for others are refused before they are counted, so no client can add labels.

- Requests are counted by the server itself, so these totals outlive the instances that ran them. Tokens of an answer
  are added as they come, and set right by its usage at the end; of a request that ended without a result, the pieces
  that were told are counted as tokens, and its prompt is not.
- What engines count themselves (guesses, preemptions, steps, cache tiers) is asked for at each scrape. When an instance
  is unloaded, what it said last stays in the total; what it did after the last scrape is lost.
- Latencies are those of requests that have a result, `vllm:time_to_first_token_seconds` and
  `vllm:request_queue_time_seconds` those of all that got so far. Time goes by as the reader of a stream takes it: where
  a client reads slowly, the pace is its own.
- `vllm:kv_cache_usage_perc` counts cells that hold contexts for later as well: a full cache is no shortage.

"""

TAIL = """
## Traces

With `traces = true` under `[telemetry]` each request makes a trace, for which `pip install "infs[telemetry]"` and an
exporter are needed, such as `opentelemetry-exporter-otlp-proto-http`:

```sh
OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 OTEL_SERVICE_NAME=infs INFS_TELEMETRY__TRACES=true infs serve
```

OpenTelemetry's own variables say where traces go: `OTEL_TRACES_EXPORTER` (`otlp` by default), `OTEL_EXPORTER_OTLP_*`,
`OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES` and so on. A provider that a program has set for itself is used
instead, and so is one that is given to `InferenceServer(tracer_provider=...)`.

The span of a request has the attributes of the conventions (`gen_ai.request.model`, `gen_ai.usage.input_tokens`,
`error.type`, ...) and one span below it for each stage:

| span | from, to |
|---|---|
| `queue` | the request, its place in an instance |
| `load` | what the model needs to be there: the events `memory` (other models make room), `download`, `load` say what |
| `prefill` | the place, the first token that is told (a call that the server carries out is not) |
| `decode` | the first token, the result |
| `tools` | the calls that the server carries out |

A request that goes on in another process, or after calls of tools, has some of them several times. Prompts and answers
are not in traces. The `traceparent` header of a request is honoured, and so is the span that is current where a
program calls the library.
"""


def page() -> str:
    """The whole page, in Markdown."""
    return HEAD + _table(Telemetry().described) + TAIL


def _table(metrics: Iterable[Described]) -> str:
    rows = ["| metric | type | labels | |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.shown}` | {metric.kind} | {labels} | {metric.text} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")

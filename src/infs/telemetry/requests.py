"""Metrics of requests, counted here as they pass by, so that they outlive the instances that ran them.

Where vLLM or OpenTelemetry's conventions for generative AI have a metric, it has their name, labels and buckets.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from infs.telemetry import buckets
from infs.telemetry.described import Described
from infs.telemetry.ended import CANCELLED, DECODE, LOADING, MEMORY, PREFILL, QUEUE, Ended
from infs.telemetry.intervals import Intervals
from infs.types import UNSET, Usage

MODEL = ("model_name",)
GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
PROVIDER = "infs"


class RequestMetrics:
    """What is counted of requests, in `registry`.

    Attributes:
        described: all of it, in words.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.described: list[Described] = []
        self._counters()
        self._sizes()
        self._times()
        self._conventional()

    def _counters(self) -> None:
        self._success = self._counter(
            "vllm:request_success",
            "Requests that ended, by how their first choice did; abort: given up by the client; error: failed.",
            (*MODEL, "finished_reason"),
        )
        self._prompt = self._counter("vllm:prompt_tokens", "Tokens of prompts, those from the cache included.")
        self._generated = self._counter("vllm:generation_tokens", "Tokens that were produced.")
        self._queries = self._counter("vllm:prefix_cache_queries", "Tokens of prompts that were looked up in caches.")
        self._hits = self._counter("vllm:prefix_cache_hits", "Tokens of prompts that were found there.")
        self._failures = self._counter(
            "infs_request_failures",
            "Requests that failed, by the code of their error: queue_full and queue_timeout are refusals of the "
            "queue, request_quarantined those of requests that ended several workers.",
            (*MODEL, "code"),
        )

    def _sizes(self) -> None:
        sizes = buckets.TOKENS
        self._prompt_sizes = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", sizes)
        self._answer_sizes = self._histogram("vllm:request_generation_tokens", "Tokens of an answer.", sizes)
        self._most = self._histogram("vllm:request_params_max_tokens", "What requests say in max_tokens.", sizes)
        self._choices = self._histogram("vllm:request_params_n", "How many choices are wanted.", buckets.CHOICES)

    def _times(self) -> None:
        first, each = buckets.FIRST_TOKEN, buckets.INTER_TOKEN
        latency = buckets.LATENCY
        self._first = self._histogram("vllm:time_to_first_token_seconds", "From the request to its first token.", first)
        gaps = Described(
            "histogram",
            "vllm:inter_token_latency_seconds",
            "Between two pieces of a choice; a piece is a token, or what one step has brought where guesses came true.",
            MODEL,
        )
        self._gaps = Intervals(gaps.name, gaps.text, each, self._registry)
        self.described.append(gaps)
        self._each = self._histogram(
            "vllm:request_time_per_output_token_seconds", "A request's decode time by its tokens but the first.", each
        )
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "From the request to its result.", latency)
        self._queued = self._histogram(
            "vllm:request_queue_time_seconds", "Waiting for a place or for memory, without loading.", latency
        )
        self._running = self._histogram(
            "vllm:request_inference_time_seconds", "From having a place to the result, without tools.", latency
        )
        self._prefill = self._histogram(
            "vllm:request_prefill_time_seconds", "From having a place to the first token.", latency
        )
        self._decode = self._histogram(
            "vllm:request_decode_time_seconds", "From the first token to the result.", latency
        )
        self._loading = self._histogram(
            "infs_request_loading_seconds",
            "What a request waited for its model, by stage: memory, download, load; only where it did.",
            latency,
            (*MODEL, "stage"),
        )

    def _conventional(self) -> None:
        self._usage = self._histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request, by gen_ai_token_type: input, output.",
            buckets.GEN_AI_TOKENS,
            (*GEN_AI, "gen_ai_token_type"),
        )
        self._duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request to its end, whatever that was; error_type is empty for a result.",
            buckets.GEN_AI_DURATION,
            (*GEN_AI, "error_type"),
        )
        self._gen_ai_first = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to its first token.",
            buckets.GEN_AI_FIRST_TOKEN,
            GEN_AI,
        )
        self._gen_ai_each = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "A request's decode time by its tokens but the first.",
            buckets.GEN_AI_OUTPUT_TOKEN,
            GEN_AI,
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = MODEL) -> Counter:
        self.described.append(Described("counter", name, text, labels))
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], labels: tuple[str, ...] = MODEL) -> Histogram:
        self.described.append(Described("histogram", name, text, labels))
        return Histogram(name, text, labels, buckets=bounds, registry=self._registry)

    # --- what happens

    def between_tokens(self, model: str, gaps: list[float]) -> None:
        """Some times between pieces of an answer, which are counted as tokens for now."""
        self._gaps.observe(model, gaps)
        self._generated.labels(model).inc(len(gaps))

    def ended(self, ended: Ended) -> None:
        """A request has ended."""
        model, gen_ai = ended.request.model, self._gen_ai(ended)
        self._duration.labels(*gen_ai, ended.error or "").observe(ended.seconds)
        self._success.labels(model, _reason(ended)).inc()
        self._asked(ended)
        self._waited(ended)
        if ended.first_token is not None:
            self._first.labels(model).observe(ended.first_token - ended.begin)
            self._gen_ai_first.labels(*gen_ai).observe(ended.first_token - ended.begin)
        if ended.usage is not None:
            self._took(ended, ended.usage)
            self._used(ended, ended.usage)
            return
        self._generated.labels(model).inc(ended.pieces - ended.counted)
        if ended.error not in (None, CANCELLED):
            self._failures.labels(model, ended.error).inc()

    def _asked(self, ended: Ended) -> None:
        """What the request wanted."""
        if not ended.generates:
            return
        settings = ended.settings
        self._choices.labels(ended.request.model).observe(settings.get("n", 1))
        if (most := settings.get("max_tokens", UNSET)) is not UNSET and most is not None:
            self._most.labels(ended.request.model).observe(most)

    def _waited(self, ended: Ended) -> None:
        """What the request waited for before it had a place."""
        model = ended.request.model
        if ended.placed:
            self._queued.labels(model).observe(ended.seconds_in(QUEUE, MEMORY))
        for stage in LOADING:
            if ended.was_in(stage):
                self._loading.labels(model, stage).observe(ended.seconds_in(stage))

    def _took(self, ended: Ended, usage: Usage) -> None:
        """How long the request took, which has a result."""
        model, decode = ended.request.model, ended.seconds_in(DECODE)
        self._whole.labels(model).observe(ended.seconds)
        self._running.labels(model).observe(ended.seconds_in(PREFILL, DECODE))
        if ended.first_token is None:
            return
        self._prefill.labels(model).observe(ended.seconds_in(PREFILL))
        self._decode.labels(model).observe(decode)
        if usage.completion_tokens > 1:
            each = decode / (usage.completion_tokens - 1)
            self._each.labels(model).observe(each)
            self._gen_ai_each.labels(*self._gen_ai(ended)).observe(each)

    def _used(self, ended: Ended, usage: Usage) -> None:
        """The tokens of a request that has a result."""
        model, gen_ai = ended.request.model, self._gen_ai(ended)
        self._prompt.labels(model).inc(usage.prompt_tokens)
        self._generated.labels(model).inc(max(0, usage.completion_tokens - ended.counted))
        self._prompt_sizes.labels(model).observe(usage.prompt_tokens)
        self._usage.labels(*gen_ai, "input").observe(usage.prompt_tokens)
        if ended.generates:
            self._queries.labels(model).inc(usage.prompt_tokens)
            self._hits.labels(model).inc(usage.cached_tokens)
            self._answer_sizes.labels(model).observe(usage.completion_tokens)
            self._usage.labels(*gen_ai, "output").observe(usage.completion_tokens)

    def _gen_ai(self, ended: Ended) -> tuple[str, str, str]:
        return ended.operation, PROVIDER, ended.request.model


def _reason(ended: Ended) -> str:
    """How a request ended, by vLLM's words where it has one."""
    if ended.error is None:
        return ended.finish_reasons[0] if ended.finish_reasons else "stop"
    return "abort" if ended.error == CANCELLED else "error"

"""Prometheus metrics of the gateway. Label values are bounded: routes and models that exist, and outcomes of ours."""

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

UNKNOWN = "unknown"

_FIRST_TOKEN_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120)
_PER_TOKEN_SECONDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_REQUEST_SECONDS = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_WAIT_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class Metrics:
    """One registry with everything in it; `render` is the body of /metrics."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "trireme_requests", "Requests that ended.", ("route", "model", "outcome", "status"), registry=registry
        )
        self.seconds = Histogram(
            "trireme_request_seconds",
            "Arrival to end of a request that succeeded.",
            ("route", "model"),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("trireme_requests_in_flight", "Requests being answered now.", registry=registry)
        self.tokens = Counter(
            "trireme_tokens",
            "Tokens used: prompt (of them cached) and completion.",
            ("model", "kind"),
            registry=registry,
        )
        self.structured_answers = Counter(
            "trireme_structured_answers",
            "Answers that had to match a grammar: valid, violated, truncated, closed.",
            ("model", "outcome"),
            registry=registry,
        )
        self.version_requests = Counter(
            "trireme_version_requests",
            "Requests that ended, by the version that answered, or was to.",
            ("model", "version", "outcome"),
            registry=registry,
        )
        self.first_token = Histogram(
            "trireme_time_to_first_token_seconds",
            "Arrival to first token.",
            ("model",),
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self.per_token = Histogram(
            "trireme_time_per_output_token_seconds",
            "Mean time between the tokens of one answer, the first left out.",
            ("model",),
            buckets=_PER_TOKEN_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "trireme_stage_seconds",
            "Time that a stage of the pipeline held a request.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.aborts = Counter("trireme_aborts", "Requests ended in the engine early.", ("outcome",), registry=registry)
        self._plans(registry)
        self._identity(registry)
        self._caches(registry)
        self._ledger(registry)
        self._limits(registry)
        self._traces(registry)
        self._gauges(registry)

    def _plans(self, registry: CollectorRegistry) -> None:
        self.plans = Counter(
            "trireme_plans", "Questions to the ensemble `plan`: how hard is it?", ("outcome",), registry=registry
        )
        self.plan_seconds = Histogram(
            "trireme_plan_seconds", "Time to an answer.", buckets=_STAGE_SECONDS, registry=registry
        )

        self.choices = Counter(
            "trireme_router_choices",
            "Models chosen by routers, and what decided.",
            ("router", "model", "reason"),
            registry=registry,
        )

    def _identity(self, registry: CollectorRegistry) -> None:
        self.auth_failures = Counter(
            "trireme_auth_failures", "Requests without a good key or token.", ("reason",), registry=registry
        )
        self.keys_restored = Counter(
            "trireme_keys_restored",
            "Records of tenants and keys that Valkey had lost and this gateway wrote back.",
            registry=registry,
        )

    def _caches(self, registry: CollectorRegistry) -> None:
        self.idempotency = Counter(
            "trireme_idempotency",
            "Requests with an Idempotency-Key, and what became of it.",
            ("outcome",),
            registry=registry,
        )
        self._answers(registry)
        self.token_cache = Counter(
            "trireme_token_cache", "Texts that were tokenized, or had been before.", ("outcome",), registry=registry
        )

    def _answers(self, registry: CollectorRegistry) -> None:
        self.cache_requests = Counter(
            "trireme_cache_requests",
            "Requests by what the cache did for them, and why it did nothing.",
            ("outcome", "reason"),
            registry=registry,
        )
        self.cache_stores = Counter(
            "trireme_cache_stores", "Answers that were to be stored.", ("outcome",), registry=registry
        )
        self.cache_lookup_seconds = Histogram(
            "trireme_cache_lookup_seconds", "Time until Valkey had answered.", buckets=_STAGE_SECONDS, registry=registry
        )
        self.cache_local_bytes = Gauge(
            "trireme_cache_local_bytes", "Answers that this gateway keeps by itself.", registry=registry
        )
        self._semantic(registry)
        self.cache_saved_tokens = Counter(
            "trireme_cache_saved_tokens",
            "Tokens of answers that nobody had to compute again.",
            ("model", "kind"),
            registry=registry,
        )
        self.cache_saved_price = Counter(
            "trireme_cache_saved_price", "What those would have cost.", ("model",), registry=registry
        )

    def _semantic(self, registry: CollectorRegistry) -> None:
        self.cache_semantic = Counter(
            "trireme_cache_semantic",
            "Requests that may have the answer to other words, and what became of that.",
            ("outcome", "reason"),
            registry=registry,
        )
        self.cache_semantic_seconds = Histogram(
            "trireme_cache_semantic_search_seconds",
            "Time to find the nearest question, without its embedding.",
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.cache_semantic_entries = Gauge(
            "trireme_cache_semantic_entries", "Questions that this gateway compares with itself.", registry=registry
        )
        self.cache_semantic_server = Gauge(
            "trireme_cache_semantic_server",
            "1: the server finds the nearest questions, 0: it does not.",
            registry=registry,
        )

    def _ledger(self, registry: CollectorRegistry) -> None:
        self.ledger_written = Counter("trireme_ledger_written", "Entries stored in Valkey.", registry=registry)
        self.ledger_dropped = Counter("trireme_ledger_dropped", "Entries that were lost.", registry=registry)
        self.ledger_spooled = Gauge("trireme_ledger_spooled", "Entries that wait on disk.", registry=registry)

        by_arm = ("model", "arm")
        self.feedback = Counter("trireme_feedback", "Requests with feedback.", by_arm, registry=registry)
        self.feedback_scores = Counter(
            "trireme_feedback_score", "Sum of their first scores, each from 0 to 1.", by_arm, registry=registry
        )

    def _limits(self, registry: CollectorRegistry) -> None:
        self.limits_refused = Counter(
            "trireme_limits_refused", "Requests over a limit or quota.", ("limit", "scope"), registry=registry
        )
        self.limits_seconds = Histogram(
            "trireme_limits_reserve_seconds",
            "Time to check and reserve, of requests that have limits.",
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.limits_degraded = Gauge(
            "trireme_limits_degraded", "1: the last decision was made without Valkey, 0: with it.", registry=registry
        )

    def _traces(self, registry: CollectorRegistry) -> None:
        self.spans_dropped = Counter(
            "trireme_spans_dropped", "Spans that did not reach the collector.", ("reason",), registry=registry
        )

    def _gauges(self, registry: CollectorRegistry) -> None:
        self.saturation = Gauge("trireme_saturation", "Work in flight over capacity, 0 to 1.", registry=registry)
        self.running = Gauge("trireme_admission_running", "Requests that have their turn.", registry=registry)
        self.running_tokens = Gauge("trireme_admission_running_tokens", "Tokens held by them.", registry=registry)
        self._admission(registry)
        self._routing(registry)
        self._adapters(registry)
        self.keys_synced = Gauge(
            "trireme_keys_synced", "1: revocations arrive, 0: serving from the last snapshot.", registry=registry
        )
        self.valkey_degraded = Gauge(
            "trireme_valkey_degraded", "1: Valkey does not answer and is not waited for, 0: it does.", registry=registry
        )
        self.build = Gauge(
            "trireme_build", "Always 1; the labels tell the build.", ("version", "python"), registry=registry
        )
        self.build.labels(_version(), python_version()).set(1)

    def _routing(self, registry: CollectorRegistry) -> None:
        by_backend = ("backend",)
        self.backend_up = Gauge("trireme_backend_up", "1: healthy, 0: not.", by_backend, registry=registry)
        self.backend_requests = Counter(
            "trireme_backend_requests", "Leases that ended.", ("backend", "outcome"), registry=registry
        )
        self.backend_tokens = Gauge(
            "trireme_backend_in_flight_tokens", "Tokens of the requests it has.", by_backend, registry=registry
        )
        self.backend_saturation = Gauge(
            "trireme_backend_saturation", "0: idle, 1: full, or nothing heard of it.", by_backend, registry=registry
        )
        self.backend_first_token = Histogram(
            "trireme_backend_time_to_first_token_seconds",
            "Lease to first token.",
            by_backend,
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self.backend_ejections = Counter(
            "trireme_backend_ejections", "Times that it was left out for its failures.", by_backend, registry=registry
        )
        self.backend_circuit = Gauge(
            "trireme_backend_circuit", "0: closed, 1: half open, 2: open.", by_backend, registry=registry
        )
        self.retries = Counter("trireme_retries", "Second attempts.", ("outcome",), registry=registry)
        self.routing_version = Gauge(
            "trireme_routing_version", "Of the routing document that is in use.", registry=registry
        )
        self.routing_refused = Counter(
            "trireme_routing_refused", "Routing documents that made no sense.", ("source",), registry=registry
        )

        self.mirrored = Counter(
            "trireme_mirror", "Copies of requests, and what became of them.", ("model", "outcome"), registry=registry
        )

    def _adapters(self, registry: CollectorRegistry) -> None:
        self.adapters = Gauge("trireme_adapters", "Adapters that are registered.", registry=registry)
        self.adapters_refused = Counter(
            "trireme_adapters_refused", "Registries of adapters that made no sense.", registry=registry
        )
        self.adapter_requests = Counter(
            "trireme_adapter_requests",
            "Requests for adapters that ended.",
            ("adapter", "revision", "outcome"),
            registry=registry,
        )
        self.adapter_orders = Counter(
            "trireme_adapter_orders", "What engines were told of adapters.", ("action", "outcome"), registry=registry
        )

    def _admission(self, registry: CollectorRegistry) -> None:
        self.queued = Gauge(
            "trireme_admission_queued", "Requests waiting for their turn.", ("class",), registry=registry
        )
        self.queued_tokens = Gauge(
            "trireme_admission_queued_tokens", "Tokens of those who wait.", ("class",), registry=registry
        )
        self.waiting_tenants = Gauge(
            "trireme_admission_waiting_tenants", "Tenants with requests that wait.", ("class",), registry=registry
        )
        self.wait_seconds = Histogram(
            "trireme_admission_wait_seconds",
            "Time until a turn, of those who got one.",
            ("class",),
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self.refusals = Counter(
            "trireme_admission_refusals", "Requests that got no turn.", ("class", "reason"), registry=registry
        )
        self.pressure = Gauge(
            "trireme_admission_pressure", "Fill of the fullest queue, or strain of the backends.", registry=registry
        )
        self.throughput = Gauge(
            "trireme_admission_throughput", "Tokens of turns that end, a second, while others wait.", registry=registry
        )
        self.token_limit = Gauge(
            "trireme_admission_token_limit", "Tokens that may run at the same time.", registry=registry
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)


def _version() -> str:
    try:
        return version("trireme")
    except PackageNotFoundError:
        return UNKNOWN

"""Prometheus metrics of the gateway. Label values are bounded: routes and models that exist, and outcomes of ours."""

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

UNKNOWN = "unknown"

_FIRST_TOKEN_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120)
_PER_TOKEN_SECONDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_REQUEST_SECONDS = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
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
        self._gauges(registry)

    def _gauges(self, registry: CollectorRegistry) -> None:
        self.saturation = Gauge("trireme_saturation", "Work in flight over capacity, 0 to 1.", registry=registry)
        self.running = Gauge("trireme_admission_running", "Requests that have their turn.", registry=registry)
        self.running_tokens = Gauge("trireme_admission_running_tokens", "Tokens held by them.", registry=registry)
        self.queued = Gauge("trireme_admission_queued", "Requests waiting for their turn.", registry=registry)
        self.backend_up = Gauge("trireme_backend_up", "1: healthy, 0: not.", ("backend",), registry=registry)
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

    def render(self) -> bytes:
        return generate_latest(self.registry)


def _version() -> str:
    try:
        return version("trireme")
    except PackageNotFoundError:
        return UNKNOWN

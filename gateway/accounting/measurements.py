"""Prometheus metrics of requests, by route and model."""

from functools import cache

from gateway.accounting.outcome import Outcome
from gateway.accounting.prices import NANO
from gateway.core.call import Call
from gateway.telemetry.metrics import UNKNOWN, Metrics

# Labels stay in memory for as long as the process runs.
MOST_VERSIONS = 100
OTHER = "other"


class Measurements:
    def __init__(self, metrics: Metrics) -> None:
        # Looking a child up by its labels costs more than counting; there are few of them, so all are kept.
        self._requests = cache(metrics.requests.labels)
        self._seconds = cache(metrics.seconds.labels)
        self._stages = cache(metrics.stages.labels)
        self._tokens = cache(metrics.tokens.labels)
        self._saved_tokens = cache(metrics.cache_saved_tokens.labels)
        self._saved_price = cache(metrics.cache_saved_price.labels)
        self._adapters = cache(metrics.adapter_requests.labels)
        self._first_token = cache(metrics.first_token.labels)
        self._per_token = cache(metrics.per_token.labels)
        self._version_requests = cache(metrics.version_requests.labels)
        self._versions: set[tuple[str, str]] = set()
        self._structured = cache(metrics.structured_answers.labels)

    def record(self, call: Call, outcome: Outcome, seconds: float) -> None:
        model = call.model.name if call.model else UNKNOWN
        self._requests(call.route, model, outcome.name, str(outcome.status)).inc()
        for stage, milliseconds in call.stages.items():
            self._stages(stage).observe(milliseconds / 1000)
        if call.model is None:
            return
        if call.model_version is not None:
            self._version_requests(model, self._bounded(model, call.model_version), outcome.name).inc()
        if call.model.adapter is not None:
            self._adapters(call.model.adapter.name, call.model.adapter.revision, outcome.name).inc()
        if outcome.name == "ok":
            self._seconds(call.route, model).observe(seconds)
        self._count_tokens(call, model)
        for answer, number in call.answers_checked.items():
            self._structured(model, answer).inc(number)
        if call.first_token_at is None or call.last_token_at is None:
            return
        self._first_token(model).observe(call.first_token_at - call.started)
        if call.tokens_seen > 1:
            between = (call.last_token_at - call.first_token_at) / (call.tokens_seen - 1)
            self._per_token(model).observe(between)

    def _bounded(self, model: str, version: str) -> str:
        if (model, version) not in self._versions:
            if len(self._versions) >= MOST_VERSIONS:
                return OTHER
            self._versions.add((model, version))
        return version

    def _count_tokens(self, call: Call, model: str) -> None:
        usage = call.usage
        self._tokens(model, "prompt").inc(usage.prompt)
        self._tokens(model, "cached").inc(usage.cached)
        self._tokens(model, "completion").inc(usage.completion)
        if call.spared is not None:
            self._saved_tokens(model, "prompt").inc(call.spared.prompt)
            self._saved_tokens(model, "completion").inc(call.spared.completion)
            self._saved_price(model).inc(call.spared_price / NANO)

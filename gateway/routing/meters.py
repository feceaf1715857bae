"""Metrics of backends. Their labels come and go with the backends."""

from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from gateway.routing.ejection import CircuitState
from gateway.telemetry.metrics import Metrics

_CIRCUIT: dict[CircuitState, int] = {"closed": 0, "half_open": 1, "open": 2}
OUTCOMES = ("ok", "refused", "cancelled", "failed")


class _Health(Protocol):
    @property
    def healthy(self) -> bool: ...


class _Ejection(Protocol):
    @property
    def state(self) -> CircuitState: ...


class _Spec(Protocol):
    @property
    def id(self) -> str: ...


class _Candidate(Protocol):
    @property
    def tokens(self) -> int: ...


class Shown(Protocol):
    """A backend whose state can be read at any time."""

    @property
    def spec(self) -> _Spec: ...
    @property
    def health(self) -> _Health: ...
    @property
    def ejection(self) -> _Ejection: ...
    @property
    def candidate(self) -> _Candidate: ...
    @property
    def saturation(self) -> float: ...


class Meters:
    """State is read when somebody scrapes; events are counted when they happen."""

    def __init__(self, metrics: Metrics) -> None:
        self._up = metrics.backend_up
        self._tokens = metrics.backend_tokens
        self._saturation = metrics.backend_saturation
        self._circuit = metrics.backend_circuit
        self._requests = metrics.backend_requests
        self._first_token = metrics.backend_first_token
        self._ejections = metrics.backend_ejections
        self.refused = metrics.routing_refused
        self.version = metrics.routing_version
        self.retries = metrics.retries

    def show(self, shown: Shown) -> None:
        name = shown.spec.id
        self._up.labels(name).set_function(lambda: shown.health.healthy)
        self._tokens.labels(name).set_function(lambda: shown.candidate.tokens)
        self._saturation.labels(name).set_function(lambda: shown.saturation)
        self._circuit.labels(name).set_function(lambda: _CIRCUIT[shown.ejection.state])

    def ended(self, name: str, outcome: str, first_token_s: float | None) -> None:
        self._requests.labels(name, outcome).inc()
        if first_token_s is not None:
            self._first_token.labels(name).observe(first_token_s)

    def ejected(self, name: str) -> None:
        self._ejections.labels(name).inc()

    def forget(self, name: str) -> None:
        """The backend is gone."""
        metrics: tuple[Counter | Gauge | Histogram, ...] = (
            self._up,
            self._tokens,
            self._saturation,
            self._circuit,
            self._first_token,
            self._ejections,
        )
        for one in metrics:
            one.remove_by_labels({"backend": name})
        self._requests.remove_by_labels({"backend": name})

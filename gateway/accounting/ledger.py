"""One line and one set of measurements for every request, however it ended."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from gateway.core.call import Call
from gateway.errors import CLIENT_CLOSED_REQUEST, ClientGone, GatewayError
from gateway.telemetry.logs import FIELDS
from gateway.telemetry.metrics import UNKNOWN, Metrics

log = logging.getLogger("trireme.access")

_CLIENT_ERROR = 400
_SERVER_ERROR = 500
OutcomeName = Literal["ok", "refused", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is the HTTP status that it amounts to, also where a stream had begun with 200; `code` tells why."""

    status: int
    code: str | None = None

    @property
    def name(self) -> OutcomeName:
        if self.status < _CLIENT_ERROR:
            return "ok"
        if self.status == CLIENT_CLOSED_REQUEST:
            return "cancelled"
        return "refused" if self.status < _SERVER_ERROR else "failed"


def outcome_of(error: BaseException | None) -> Outcome:
    """How a request ended that was left by this exception."""
    match error:
        case None:
            return Outcome(200)
        case GatewayError():
            return Outcome(error.status, error.code)
        case asyncio.CancelledError():
            return Outcome(CLIENT_CLOSED_REQUEST, ClientGone.code)
        case _:
            return Outcome(_SERVER_ERROR, GatewayError.code)


class Ledger:
    """Writes each call down once, the first time that it is closed."""

    def __init__(self, metrics: Metrics) -> None:
        # Looking a child up by its labels costs more than counting; there are few of them, so all are kept.
        self._requests = cache(metrics.requests.labels)
        self._seconds = cache(metrics.seconds.labels)
        self._stages = cache(metrics.stages.labels)
        self._tokens = cache(metrics.tokens.labels)
        self._first_token = cache(metrics.first_token.labels)
        self._per_token = cache(metrics.per_token.labels)

    @contextmanager
    def entry(self, call: Call) -> Iterator[None]:
        """The call's entry is written when this is left."""
        try:
            yield
        except BaseException as error:  # cancellations too: every ending is written down, then goes on its way
            self.close(call, outcome_of(error))
            raise
        self.close(call, outcome_of(None))

    def close(self, call: Call, outcome: Outcome, level: int = logging.INFO) -> None:
        """Never raises, never waits: it also runs while a request is being cancelled."""
        if call.closed:
            return
        call.closed = True
        seconds = time.monotonic() - call.started
        self._measure(call, outcome, seconds)
        if log.isEnabledFor(level):
            log.log(level, "request", extra={FIELDS: _line(call, outcome, seconds)})

    def _measure(self, call: Call, outcome: Outcome, seconds: float) -> None:
        model = call.model.name if call.model else UNKNOWN
        self._requests(call.route, model, outcome.name, str(outcome.status)).inc()
        for stage, milliseconds in call.stages.items():
            self._stages(stage).observe(milliseconds / 1000)
        if call.model is None:
            return
        if outcome.name == "ok":
            self._seconds(call.route, model).observe(seconds)
        for kind, number in _tokens(call).items():
            self._tokens(model, kind).inc(number)
        if call.first_token_at is None or call.last_token_at is None:
            return
        self._first_token(model).observe(call.first_token_at - call.started)
        if call.tokens_seen > 1:
            between = (call.last_token_at - call.first_token_at) / (call.tokens_seen - 1)
            self._per_token(model).observe(between)


def _tokens(call: Call) -> dict[str, int]:
    """What was used; of a call that ended early, the tokens that came."""
    usage = call.usage
    return {"prompt": usage.prompt, "cached": usage.cached, "completion": usage.completion or call.tokens_seen}


def _line(call: Call, outcome: Outcome, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {
        "request_id": call.id,
        "route": call.route,
        "status": outcome.status,
        "outcome": outcome.name,
        "ms": round(seconds * 1000, 3),
    }
    if outcome.code:
        line["code"] = outcome.code
    if call.caller:
        line |= {"tenant": call.caller.tenant, "key_id": call.caller.key_id}
    if call.model:
        line |= {"model": call.model.name, "model_version": call.model_version, "stream": call.stream}
        line["tokens"] = _tokens(call)
    line["stages_ms"] = {stage: round(milliseconds, 3) for stage, milliseconds in call.stages.items()}
    return line

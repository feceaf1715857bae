"""Every request is written down once, however it ends."""

import asyncio

import pytest

from gateway.accounting.ledger import Ledger, Outcome, outcome_of
from gateway.core.call import Call, Model
from gateway.core.limit import TimeLimit
from gateway.errors import BackendFailed, ClientGone, Overloaded
from gateway.telemetry.metrics import Metrics


def new_call() -> Call:
    return Call(id="r", uid="u", route="/x", limit=TimeLimit(60), model=Model("tiny", "generate", 256, 0))


@pytest.mark.parametrize(
    ("error", "status", "name", "code"),
    [
        (None, 200, "ok", None),
        (Overloaded("x"), 429, "refused", "overloaded"),
        (BackendFailed("x", code="engine_died"), 502, "failed", "engine_died"),
        (ClientGone("x"), 499, "cancelled", "client_gone"),
        (asyncio.CancelledError(), 499, "cancelled", "client_gone"),
        (RuntimeError("x"), 500, "failed", "internal_error"),
    ],
)
def test_how_a_request_ended(error: BaseException | None, status: int, name: str, code: str | None) -> None:
    outcome = outcome_of(error)
    assert (outcome.status, outcome.name, outcome.code) == (status, name, code)


def test_a_call_is_counted_once() -> None:
    metrics = Metrics()
    ledger, call = Ledger(metrics), new_call()
    with pytest.raises(Overloaded), ledger.entry(call):
        raise Overloaded("x")
    ledger.close(call, Outcome(200))
    labels = {"route": "/x", "model": "tiny"}
    count = metrics.registry.get_sample_value
    assert count("trireme_requests_total", labels | {"outcome": "refused", "status": "429"}) == 1
    assert count("trireme_requests_total", labels | {"outcome": "ok", "status": "200"}) is None


def test_tokens_of_a_call_that_ended_early_are_those_that_came() -> None:
    metrics = Metrics()
    call = new_call()
    with pytest.raises(asyncio.CancelledError), Ledger(metrics).entry(call):
        call.saw_tokens(1)
        call.saw_tokens(4)
        raise asyncio.CancelledError
    tokens = {"model": "tiny", "kind": "completion"}
    assert metrics.registry.get_sample_value("trireme_tokens_total", tokens) == 5

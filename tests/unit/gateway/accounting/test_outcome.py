"""What an ending is called."""

import asyncio

import pytest

from gateway.accounting.outcome import outcome_of
from gateway.errors import BackendFailed, ClientGone, Overloaded


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

"""What others' errors mean."""

import aiohttp
import pytest

from gateway.core.job import Backend
from gateway.errors import (
    BackendFailed,
    BackendLost,
    BackendTimeout,
    BackendUnavailable,
    ClientGone,
    GatewayError,
    InvalidRequest,
)
from gateway.triton.faults import error_of, faults

BACKEND = Backend("triton", "http://t")


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (aiohttp.ServerDisconnectedError(), BackendLost),
        (aiohttp.ClientOSError(), BackendLost),
        (aiohttp.ClientPayloadError(), BackendLost),
        (aiohttp.ConnectionTimeoutError(), BackendLost),
        (aiohttp.SocketTimeoutError(), BackendTimeout),
        (TimeoutError(), BackendTimeout),
        (aiohttp.InvalidURL("x"), BackendFailed),
        (ClientGone("x"), ClientGone),
    ],
    ids=lambda one: one.__name__ if isinstance(one, type) else type(one).__name__,
)
def test_foreign_exceptions_become_ours(foreign: Exception, ours: type[GatewayError]) -> None:
    with pytest.raises(GatewayError) as raised, faults(BACKEND):
        raise foreign
    assert type(raised.value) is ours


@pytest.mark.parametrize(
    ("text", "status", "ours", "code"),
    [
        ('{"message":"m","type":"invalid_request_error","code":"c","param":"p"}', 400, InvalidRequest, "c"),
        ('in ensemble \'chat\', {"message":"m","type":"server_error","code":"c"}', 200, BackendFailed, "c"),
        (
            'in ensemble \'chat\', {"message":"m","type":"server_error","code":"engine_unavailable"}',
            400,
            BackendUnavailable,
            "engine_unavailable",
        ),
        (
            '{"message":"m","type":"server_error","code":"grammar_unavailable"}',
            400,
            BackendUnavailable,
            "grammar_unavailable",
        ),
        ("Request for unknown model: 'chat' is not found", 400, BackendUnavailable, "backend_unavailable"),
        ("whatever", 503, BackendUnavailable, "backend_unavailable"),
        ("Failed to process: {not json", 500, BackendFailed, "backend_failed"),
    ],
)
def test_triton_errors_become_ours(text: str, status: int, ours: type[GatewayError], code: str) -> None:
    error = error_of(BACKEND, text, status)
    assert type(error) is ours
    assert error.code == code


def test_words_of_others_never_reach_the_client() -> None:
    assert "secret" not in error_of(BACKEND, "Traceback: /secret/model.py", 500).message

"""Everything that can go wrong between here and Triton, in our own words. Nobody else knows aiohttp's exceptions."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import msgspec

from gateway.core.job import Backend
from gateway.errors import (
    AdapterUnavailable,
    BackendFailed,
    BackendLost,
    BackendTimeout,
    BackendUnavailable,
    GatewayError,
    GrammarUnavailable,
    InvalidRequest,
)
from python_backends.messages import ErrorBody

log = logging.getLogger(__name__)

UNAVAILABLE = 503
_BODY = msgspec.json.Decoder(ErrorBody)
_BAD_REQUEST = "invalid_request_error"
# Codes of our models that mean: not now, and not here.
_UNAVAILABLE_CODES = frozenset(("engine_unavailable", GrammarUnavailable.code))
# What Triton itself says of a model that it does not serve at the moment.
_NOT_SERVED = ("is not ready", "unknown model", "is not found", "unloaded", "Server is stopping")


@contextmanager
def faults(backend: Backend) -> Iterator[None]:
    """Foreign exceptions → BackendLost (no connection, or it broke), BackendTimeout, BackendFailed."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise BackendLost(f"backend {backend.name} accepts no connections") from error
    except TimeoutError as error:
        raise BackendTimeout(f"backend {backend.name} did not answer in time") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
        raise BackendLost(f"the connection to backend {backend.name} failed") from error
    except aiohttp.ClientError as error:
        raise BackendFailed(f"backend {backend.name} sent an answer that makes no sense") from error


def error_of(backend: Backend, text: str, status: int) -> GatewayError:
    """The error that Triton's `error` text stands for. Words of other people's are for the log, not for clients."""
    body = _body_of(text)
    if body is None:
        log.warning("backend %s answered %d: %s", backend.name, status, text[:2000])
        if status == UNAVAILABLE or any(words in text for words in _NOT_SERVED):
            return BackendUnavailable(f"backend {backend.name} cannot take requests", retry_after=1.0)
        return BackendFailed(f"backend {backend.name} failed")
    if body.type == _BAD_REQUEST:
        return InvalidRequest(body.message, param=body.param, code=body.code)
    if body.code == AdapterUnavailable.code:
        return AdapterUnavailable(body.message, param=body.param, retry_after=1.0)
    if body.code in _UNAVAILABLE_CODES:
        return BackendUnavailable(body.message, code=body.code, retry_after=1.0)
    return BackendFailed(body.message, param=body.param, code=body.code)


def _body_of(text: str) -> ErrorBody | None:
    """Our models' own errors; an ensemble puts `in ensemble 'chat', ` before them."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        return _BODY.decode(text[start:])
    except msgspec.DecodeError:
        return None

"""The border to the request rules that the gateway shares with the Triton models."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import InvalidRequest
from python_backends.preprocessing.errors import RequestError


@contextmanager
def request_faults() -> Iterator[None]:
    """RequestError → InvalidRequest, with the same words."""
    try:
        yield
    except RequestError as error:
        raise InvalidRequest(error.message, param=error.param, code=error.code) from error

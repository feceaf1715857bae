"""HTTP to Triton: streams, single answers, readiness. Times and sizes are bounded here.

A crowd that arrives at once keeps the event loop busy for seconds: that must not look like a backend that is silent.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from gateway.core.bounded import Bounded
from gateway.core.job import Backend
from gateway.core.patience import Patience
from gateway.triton.events import EventSplitter
from gateway.triton.faults import error_of, faults
from gateway.triton.settings import TritonSettings

_OK = 200
_MAX_ERROR_BYTES = 64 * 1024
_MAX_PAGE_BYTES = 4 * 1024 * 1024
_JSON = {"content-type": "application/json"}


class _Error(msgspec.Struct):
    error: str


class EventStream:
    """The events of one streaming answer."""

    def __init__(self, content: aiohttp.StreamReader, patience: Patience, max_event_bytes: int) -> None:
        self._content = content
        self._patience = patience
        self._events = EventSplitter(max_event_bytes)

    async def read(self) -> list[bytes]:
        """The next events (JSON), at least one; none at the end.

        Only one piece is read ahead: a slow reader slows Triton down by way of TCP.
        """
        events: list[bytes] = []
        while not events:
            self._patience.wait()
            data = await self._content.readany()
            self._patience.done()
            if not data:
                break
            events = self._events.feed(data)
        return events


class TritonClient:
    """All errors are GatewayErrors."""

    def __init__(self, session: aiohttp.ClientSession, settings: TritonSettings) -> None:
        self._session = session
        self._settings = settings

    @asynccontextmanager
    async def stream(self, backend: Backend, path: str, body: bytes) -> AsyncIterator[EventStream]:
        """POST and hand over the answer's events. Leaving before their end closes the connection."""
        settings = self._settings
        with faults(backend):
            async with asyncio.timeout(settings.first_byte_timeout_s):
                response = await self._session.post(f"{backend.url}{path}", data=body, headers=_JSON)
            try:
                if response.status != _OK:
                    raise await _refusal(backend, response)
                async with Patience(settings.idle_timeout_s) as patience:
                    yield EventStream(response.content, patience, settings.max_event_bytes)
            finally:
                response.close()

    async def post(
        self, backend: Backend, path: str, body: bytes, headers: Mapping[str, str] = _JSON, *, timeout_s: float
    ) -> tuple[bytes, Mapping[str, str]]:
        """POST for one whole answer: its body and headers. `timeout_s`: for all of it."""
        with faults(backend):
            async with (
                Bounded(timeout_s),
                self._session.post(f"{backend.url}{path}", data=body, headers=headers) as response,
            ):
                if response.status != _OK:
                    raise await _refusal(backend, response)
                return await response.read(), response.headers

    async def get(self, backend: Backend, path: str, *, timeout_s: float) -> None:
        """GET, and be content with 200."""
        with faults(backend):
            async with Bounded(timeout_s), self._session.get(f"{backend.url}{path}") as response:
                if response.status != _OK:
                    raise await _refusal(backend, response)

    async def page(self, backend: Backend, url: str, *, timeout_s: float) -> bytes:
        """GET a page of any address that belongs to this server; of a long one the beginning."""
        data = bytearray()
        with faults(backend):
            async with Bounded(timeout_s), self._session.get(url) as response:
                if response.status != _OK:
                    raise await _refusal(backend, response)
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) >= _MAX_PAGE_BYTES:
                        break
        return bytes(data)


async def _refusal(backend: Backend, response: aiohttp.ClientResponse) -> Exception:
    """The error in an answer that is none: JSON, or JSON in a server-sent event."""
    data = await response.content.read(_MAX_ERROR_BYTES)
    text = data.removeprefix(b"data:").strip()
    try:
        message = msgspec.json.decode(text, type=_Error).error
    except msgspec.DecodeError:
        message = text.decode(errors="replace")
    return error_of(backend, message, response.status)

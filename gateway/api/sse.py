"""A streamed answer: server-sent events as OpenAI sends them."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.api.responses import error_body, standard_headers
from gateway.api.schema import UsageBody
from gateway.core.call import Call
from gateway.core.job import Chunk
from gateway.errors import ClientGone, GatewayError

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_DONE = b"data: [DONE]\n\n"
_NO_USAGE = b'],"usage":null}\n\n'
_END = b"]}\n\n"
# Bytes that always fit into an empty write buffer (asyncio and uvloop: 64 KiB), so that no write has to wait.
_CANNOT_BLOCK = 32 * 1024


@dataclass(frozen=True)
class StreamShape:
    """`id`: of the answer; `object`: what its chunks say they are."""

    id: str
    object: str
    include_usage: bool


class StreamedReply:
    """Headers go out with the first chunk, so that whatever fails before it still gets a status of its own; or with the
    first heartbeat, which is a comment of server-sent events.

    Choices are spliced between bytes that are the same for all chunks: nothing is encoded again.
    `write_timeout_s`: how long a client may leave its side of the connection full.
    """

    def __init__(self, request: web.Request, call: Call, shape: StreamShape, write_timeout_s: float) -> None:
        self._request = request
        self._call = call
        self._shape = shape
        self._write_timeout_s = write_timeout_s
        self._suffix = _NO_USAGE if shape.include_usage else _END
        self._prefix = b""
        self._starting = asyncio.Lock()
        self.response = web.StreamResponse(headers=STREAM_HEADERS)
        self.started = False

    async def send(self, piece: Chunk) -> None:
        if not self.started:
            await self._start()
        await self._write(b"".join((self._prefix, piece.choice, self._suffix)))

    async def heartbeat(self, place: int) -> None:
        """Tell a client that waits its place in the queue. Never part of what is recorded. Raises ClientGone."""
        if not self.started:
            await self._start()
        await StreamedReply._write(self, b": waiting, position %d\n\n" % place)

    async def finish(self) -> None:
        """The usage, if it was asked for, and the end. Raises ClientGone."""
        last = _DONE
        if self._shape.include_usage:
            usage = msgspec.json.encode(UsageBody.of(self._call.told_usage))
            last = b"".join((self._prefix, b'],"usage":', usage, b"}\n\n", _DONE))
        await self._succeed(last)

    async def fail(self, error: GatewayError) -> None:
        """An error event, and the end without [DONE]. A client that takes no more is cut off."""
        try:
            if isinstance(error, ClientGone):
                raise error
            await self._end(b"".join((b"data: ", error_body(error), b"\n\n")))
        except ClientGone:
            if self._request.transport is not None:
                self._request.transport.abort()

    async def _start(self) -> None:
        """Several prompts' streams may come here at the same time."""
        async with self._starting:
            if self.started:
                return
            call, shape = self._call, self._shape
            head = {"id": shape.id, "object": shape.object, "created": call.created, "model": _name(call)}
            self._prefix = b"".join((b"data: ", msgspec.json.encode(head)[:-1], b',"choices":['))
            self.response.headers.update(standard_headers(call))
            with _CLIENT_FAULTS:
                await self.response.prepare(self._request)
            self.started = True

    async def _write(self, data: bytes) -> None:
        with _CLIENT_FAULTS:
            if len(data) < _CANNOT_BLOCK and self._backlog() == 0:
                await self.response.write(data)
                return
            async with asyncio.timeout(self._write_timeout_s):
                await self.response.write(data)

    async def _succeed(self, last: bytes) -> None:
        await self._end(last)

    async def _end(self, last: bytes) -> None:
        with _CLIENT_FAULTS:
            async with asyncio.timeout(self._write_timeout_s):
                await self.response.write_eof(last)

    def _backlog(self) -> int:
        """Bytes that the client has not taken yet. Raises ConnectionResetError when it is gone."""
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError
        return transport.get_write_buffer_size()


class Recorder(Protocol):
    """Gets every byte of a stream. The waiting ones are called before the client can have read the end."""

    def add(self, data: bytes) -> None: ...

    async def complete(self, last: bytes) -> None: ...

    async def give_up(self) -> None: ...


class RecordedReply(StreamedReply):
    """A kind of its own, so that a stream that nobody records does nothing for it."""

    def __init__(
        self, request: web.Request, call: Call, shape: StreamShape, write_timeout_s: float, recorder: Recorder
    ) -> None:
        super().__init__(request, call, shape, write_timeout_s)
        self._recorder = recorder

    async def fail(self, error: GatewayError) -> None:
        await self._recorder.give_up()
        await super().fail(error)

    async def _write(self, data: bytes) -> None:
        self._recorder.add(data)
        await super()._write(data)

    async def _succeed(self, last: bytes) -> None:
        await self._recorder.complete(last)
        await super()._succeed(last)


class _ClientFaults:
    """ConnectionError and TimeoutError → ClientGone. A class, for it is entered with every token."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ConnectionError):
            raise ClientGone("the client closed the connection") from error
        if isinstance(error, TimeoutError):
            raise ClientGone("the client stopped reading") from error


_CLIENT_FAULTS = _ClientFaults()


def _name(call: Call) -> str:
    return call.model.name if call.model else ""

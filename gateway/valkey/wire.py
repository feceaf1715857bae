"""One connection to Valkey that all calls share: commands go out as they come, answers come back in the same order.

A client library takes a connection of its own for each call, and four times the time (docs/adr/0010-one-wire.md). The
protocol itself is hiredis's.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError as ConnectionFailed
from redis.exceptions import NoScriptError, ResponseError

Argument = str | bytes | int | float
Command = tuple[Argument, ...]
# Its type says that a command has one word.
_pack: Final = cast(Callable[[Command], bytes], hiredis.pack_command)
_HOST: Final = "localhost"
_PORT: Final = 6379


class Wire:
    """`ask` connects when there is no connection, and waits as long as it takes: callers bound it.

    `greeting`: what is said first on each connection.
    """

    def __init__(self, connect: "Callable[[], Awaitable[_Line]]", greeting: Sequence[Command] = ()) -> None:
        self._connect = connect
        self._greeting = greeting
        self._line: _Line | None = None
        self._connecting = asyncio.Lock()

    @classmethod
    def to(cls, url: str) -> "Wire":
        """`redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads them. Raises ValueError."""
        given: dict[str, Any] = dict(parse_url(url))
        greeting: list[Command] = []
        if given.get("password"):
            greeting.append(("AUTH", *filter(None, (given.get("username"), given["password"]))))
        if given.get("db"):
            greeting.append(("SELECT", given["db"]))
        return cls(_connector(given), greeting)

    @property
    def connected(self) -> bool:
        return self._line is not None and not self._line.closed

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Their answers; one can be a ResponseError. Raises redis.exceptions.ConnectionError, OSError."""
        line = self._line
        if line is None or line.closed:
            line = await self._connected()
        answers = line.ask(commands)
        return [await answer for answer in answers]

    def drop(self) -> None:
        """Give up on this connection, and on everything that was asked; the next call makes a new one."""
        if self._line is not None:
            self._line.abort()
            self._line = None

    async def _connected(self) -> "_Line":
        async with self._connecting:
            if self._line is None or self._line.closed:
                self._line = await self._greeted(await self._connect())
            return self._line

    async def _greeted(self, line: "_Line") -> "_Line":
        try:
            answers = [await answer for answer in line.ask(self._greeting)]
        except BaseException:  # cancellations too: nobody else knows of this connection
            line.abort()
            raise
        for refusal in (answer for answer in answers if isinstance(answer, ResponseError)):
            line.abort()
            raise ConnectionFailed(str(refusal))
        return line


class _Line(asyncio.Protocol):
    """The connection itself. What is asked within one turn of the event loop goes out together."""

    def __init__(self) -> None:
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self._reader = hiredis.Reader(protocolError=ConnectionFailed, replyError=_error_of)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass

    def ask(self, commands: Sequence[Command]) -> "list[asyncio.Future[Any]]":
        futures = [self._loop.create_future() for _ in commands]
        if self.closed:
            _fail(futures)
            return futures
        if commands and not self._out:
            self._loop.call_soon(self._send)
        self._asked.extend(futures)
        self._out.extend(_pack(command) for command in commands)
        return futures

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                future = self._asked.popleft()
                if not future.done():
                    future.set_result(answer)
        except (ConnectionFailed, IndexError):  # not the protocol, or an answer that nobody asked for
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        _fail(self._asked)
        self._asked.clear()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    def _send(self) -> None:
        data, self._out = b"".join(self._out), []
        if self._transport is not None and not self.closed:
            self._transport.write(data)


def _connector(given: dict[str, Any]) -> Callable[[], Awaitable[_Line]]:
    async def connect() -> _Line:
        loop = asyncio.get_running_loop()
        if path := given.get("path"):
            return (await loop.create_unix_connection(_Line, path))[1]
        tls = None
        if issubclass(given.get("connection_class", object), SSLConnection):
            tls = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
        host, port = given.get("host", _HOST), given.get("port", _PORT)
        return (await loop.create_connection(_Line, host, port, ssl=tls))[1]

    return connect


def _error_of(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)


def _fail(futures: "Sequence[asyncio.Future[Any]] | deque[asyncio.Future[Any]]") -> None:
    for future in futures:
        if not future.done():
            future.set_exception(ConnectionFailed("Valkey closed the connection"))
            future.exception()  # whoever asked may be gone: then nobody fetches it, which is no fault

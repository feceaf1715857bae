"""A bounded number of requests and tokens at a time, and a bounded first-come-first-served queue before it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec

from gateway.core.call import Call
from gateway.core.settings import Setting
from gateway.errors import GatewayError, InvalidRequest, Overloaded, QueueTimeout, ShuttingDown
from gateway.telemetry.metrics import Metrics

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    max_running: Annotated[
        AtLeastOne, Setting("Requests that run at the same time.", env="MAX_RUNNING", unit="requests")
    ] = 64
    max_running_tokens: Annotated[
        AtLeastOne,
        Setting("Prompt and expected answer tokens of the requests that run.", env="MAX_RUNNING_TOKENS", unit="tokens"),
    ] = 262_144
    max_queued: Annotated[
        NotNegative, Setting("Requests that wait for their turn.", env="MAX_QUEUED", unit="requests")
    ] = 128
    max_queued_tokens: Annotated[
        NotNegative, Setting("Tokens of the requests that wait.", env="MAX_QUEUED_TOKENS", unit="tokens")
    ] = 524_288
    queue_timeout_s: Annotated[
        Seconds, Setting("Longest wait for a turn; then 408.", env="QUEUE_TIMEOUT_S", unit="s")
    ] = 30.0
    retry_after_s: Annotated[
        Seconds,
        Setting("What `retry-after` says when the queue is full (429).", env="OVERLOAD_RETRY_AFTER_S", unit="s"),
    ] = 1.0


@dataclass(slots=True, eq=False)
class _Waiter:
    call: Call
    turn: asyncio.Future[None]


class Gate:
    """Strictly first come, first served: the same state and the same request always give the same answer.

    full queue → Overloaded (429) · waited too long → QueueTimeout (408) · closing → ShuttingDown (503) ·
    larger than the gate itself → InvalidRequest (400), since waiting could never help
    """

    def __init__(self, settings: GateSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._running: set[Call] = set()
        self._queue: deque[_Waiter] = deque()
        self._running_tokens = 0
        self._queued_tokens = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.closed = False
        metrics.saturation.set_function(lambda: self.saturation)
        metrics.running.set_function(lambda: len(self._running))
        metrics.running_tokens.set_function(lambda: self._running_tokens)
        metrics.queued.set_function(lambda: len(self._queue))

    @property
    def saturation(self) -> float:
        """0: idle, 1: the next request waits."""
        settings = self._settings
        return min(
            1.0, max(len(self._running) / settings.max_running, self._running_tokens / settings.max_running_tokens)
        )

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @asynccontextmanager
    async def turn(self, call: Call) -> AsyncIterator[None]:
        """Hold `call.cost` tokens and one place while inside."""
        self._refuse(call)
        if self._queue or not self._fits(call):
            await self._wait(call)
        else:
            self._enter(call)
        try:
            yield
        finally:
            self._leave(call)

    def close(self) -> None:
        """Refuse newcomers and those who wait; those who run may go on."""
        self.closed = True
        while self._queue:
            waiter = self._pop()
            if not waiter.turn.done():
                waiter.turn.set_exception(_closing())

    async def drained(self) -> None:
        """Returns when nothing runs any more."""
        await self._empty.wait()

    def end_all(self, error: GatewayError) -> None:
        """Stop whatever still runs; its clients are told `error`."""
        for call in self._running:
            call.limit.end(error)

    def _refuse(self, call: Call) -> None:
        settings = self._settings
        if self.closed:
            raise _closing()
        if call.cost > settings.max_running_tokens:
            raise InvalidRequest(
                f"the request needs {call.cost} tokens at once, and this server handles {settings.max_running_tokens}: "
                "ask for fewer choices or prompts",
                code="request_too_large",
            )
        waits = self._queue or not self._fits(call)
        full = len(self._queue) >= settings.max_queued or self._queued_tokens + call.cost > settings.max_queued_tokens
        if waits and full:
            raise Overloaded("the server is busy and its queue is full", retry_after=settings.retry_after_s)

    def _fits(self, call: Call) -> bool:
        settings = self._settings
        return (
            len(self._running) < settings.max_running
            and self._running_tokens + call.cost <= settings.max_running_tokens
        )

    async def _wait(self, call: Call) -> None:
        """A turn can be granted in the very moment in which its waiter gives up: then it is handed on."""
        waiter = _Waiter(call, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        self._queued_tokens += call.cost
        seconds = self._settings.queue_timeout_s
        try:
            async with asyncio.timeout(seconds):
                await waiter.turn
        except BaseException as error:  # cancellations too: a place in the queue is given back however the wait ends
            self._give_up(waiter)
            if isinstance(error, TimeoutError):
                raise QueueTimeout(f"no turn came within {seconds:g} s: the server is busy") from None
            raise

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
            self._queued_tokens -= waiter.call.cost
            self._grant()
        elif waiter.call in self._running:
            self._leave(waiter.call)

    def _enter(self, call: Call) -> None:
        self._running.add(call)
        self._running_tokens += call.cost
        self._empty.clear()

    def _leave(self, call: Call) -> None:
        self._running.discard(call)
        self._running_tokens -= call.cost
        self._grant()
        if not self._running:
            self._empty.set()

    def _grant(self) -> None:
        while self._queue and self._fits(self._queue[0].call):
            waiter = self._pop()
            if not waiter.turn.done():
                self._enter(waiter.call)
                waiter.turn.set_result(None)

    def _pop(self) -> _Waiter:
        waiter = self._queue.popleft()
        self._queued_tokens -= waiter.call.cost
        return waiter


def _closing() -> ShuttingDown:
    return ShuttingDown("the server is shutting down: try again", retry_after=1.0)

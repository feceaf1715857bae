"""One answer that is being made, and everybody who waits for it.

The work runs in a task of the flight's own, with a call of its own (`carrier`), so that whoever came first may leave
like anybody else. When the last of them leaves, it is stopped. What it used is the account of one: of the first who is
still there when it ends, or of the last who left.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from gateway.cache.answers import Answer
from gateway.core.call import CacheOutcome, Call, Usage
from gateway.core.identity import PRIORITY_CLASSES
from gateway.core.job import Chunk
from gateway.core.ports import Reply
from gateway.errors import ClientGone, ShuttingDown

# Who would have at least so much more time for itself makes its own answer.
FAIR_SHARE: Final = 0.9
_USUAL: Final = "standard"
NO_HEADERS: Final[Mapping[str, str]] = {}


class FlightFailed(Exception):  # noqa: N818 - read as what happened; never leaves this package
    """`cause`: why. `begun`: whoever gets this has sent a part of the answer."""

    def __init__(self, cause: BaseException, *, begun: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.begun = begun


class Flight:
    """`chunks`: what there is of the answer so far; each who waits reads it at its own pace. A Reply for the engine."""

    def __init__(self, leader: Call) -> None:
        self.carrier = leader.carrier()
        self.carrier.heartbeat = self._hearten
        self.chunks: list[Chunk] = []
        self.given: Answer | None = None
        self._given_as: CacheOutcome = "coalesced"
        self._headers: dict[str, str] = {}
        self._leader = leader
        self._asked_class = leader.priority_class
        self._payer: Call | None = None
        self._aboard: dict[Call, None] = {}
        self._more = asyncio.Event()
        self._landed = asyncio.Event()
        self._deserted = False
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def takes(self, call: Call) -> bool:
        """Whether `call` can wait for this answer and lose nothing: not if that is less urgent, or has less time."""
        if self._deserted or self._landed.is_set():
            return False
        ours, theirs = (PRIORITY_CLASSES.index(asked or _USUAL) for asked in (self._asked_class, call.priority_class))
        return ours <= theirs and self.carrier.limit.remaining >= FAIR_SHARE * call.limit.remaining

    def begin(self, work: Callable[["Flight"], Awaitable[None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(work), name=f"answer {self.carrier.id}")
        self._task.add_done_callback(self._land)

    async def send(self, piece: Chunk) -> None:
        """Never waits: the answer is as long as the model's context at most."""
        self.chunks.append(piece)
        self._wake(self._more)

    async def finish(self) -> None:
        """Whoever waits finishes its own reply."""

    def replay(
        self, answer: Answer, outcome: CacheOutcome = "coalesced", headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """It was made elsewhere. `headers`: what all who wait are told of it."""
        self.given, self._given_as = answer, outcome
        self._headers = dict(headers)
        self.chunks.extend(Chunk(choice, tokens) for choice, tokens in answer.chunks)

    def leads(self, call: Call) -> bool:
        return call is self._leader

    def spares(self, call: Call) -> bool:
        """Whether `call` has the answer for nothing."""
        return self.given is not None or call is not self._payer

    @property
    def usage(self) -> Usage:
        """What the answer took, or once did."""
        return self.carrier.usage if self.given is None else self.given.usage

    async def board(self, call: Call, reply: Reply[Chunk]) -> None:
        """All of the answer, as it comes for a stream, else when it is whole. Raises FlightFailed, ClientGone."""
        self._aboard[call] = None
        call.cache = "miss" if call is self._leader else "coalesced"
        try:
            await self._relay(call, reply)
        finally:
            await self._leave(call)

    async def _run(self, work: Callable[["Flight"], Awaitable[None]]) -> None:
        async with self.carrier.limit:
            await work(self)

    async def _hearten(self, place: int) -> None:
        """While the work waits for its turn, all who wait for it do. Who has left meanwhile is not told."""
        for call in list(self._aboard):
            if call.heartbeat is not None and call in self._aboard:
                with suppress(ClientGone):
                    await call.heartbeat(place)

    def _land(self, task: asyncio.Task[None]) -> None:
        """The task is over. Asking for its exception also tells asyncio that somebody cares."""
        self._failure = (
            ShuttingDown("the server is shutting down: try again", retry_after=1.0)
            if task.cancelled()
            else task.exception()
        )
        payer = next(iter(self._aboard), None)
        if payer is not None:
            self._charge(payer)
        self._landed.set()
        self._wake(self._more)

    async def _relay(self, call: Call, reply: Reply[Chunk]) -> None:
        sent, news = 0, self._more if call.stream else self._landed
        while True:
            ready = call.stream or self._landed.is_set()
            while ready and sent < len(self.chunks) and (sent or self._failure is None):
                if not sent:
                    self._introduce(call)
                await reply.send(self.chunks[sent])
                sent += 1
            if self._landed.is_set():
                break
            await news.wait()
        if self._failure is not None:
            raise FlightFailed(self._failure, begun=sent > 0)

    async def _leave(self, call: Call) -> None:
        """The last one waits for the work to give back what it holds, which takes a turn of the event loop."""
        del self._aboard[call]
        self._introduce(call)
        if self._aboard or self._landed.is_set() or self._task is None:
            return
        self._deserted = True
        self._task.cancel()
        await asyncio.wait({self._task})
        self._introduce(call)
        self._charge(call)

    def _introduce(self, call: Call) -> None:
        """Write down what is known of the answer by now; how it was made, only for whoever it was made for."""
        carrier = self.carrier
        call.model_version = carrier.model_version if self.given is None else self.given.model_version
        if call is not self._leader or self.given is not None:
            call.cache = self._given_as
            call.headers.update(self._headers)
            if not call.stages.keys() & {"coalesced", "semantic"}:
                self._mark(call)
            return
        call.cache = "miss"
        for name in _OF_THE_WORK:
            setattr(call, name, getattr(carrier, name))

    def _mark(self, call: Call) -> None:
        if self._given_as == "hit-semantic":
            call.mark("semantic")
        else:
            call.mark("coalesced")

    def _charge(self, call: Call) -> None:
        self._payer, used = call, self.carrier.usage
        call.usage.add(used.prompt, used.completion, used.cached)

    @staticmethod
    def _wake(event: asyncio.Event) -> None:
        """Everybody who waits now."""
        event.set()
        event.clear()


_OF_THE_WORK: Final = (
    "arm",
    "backend",
    "engine",
    "experiment",
    "first_token_at",
    "last_token_at",
    "priority_class",
    "queue_position",
    "retries",
    "tokens_seen",
    "unit",
)

"""The scheduler, awaited: `async with gate.turn(call)`. All decisions are made in `scheduler`; here are clock, futures,
timers and metrics.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import cache
from typing import NamedTuple

from gateway.admission.adaptive import AdaptiveLimit, Speed
from gateway.admission.line import Line, Ticket
from gateway.admission.scheduler import Scheduler, no_strain
from gateway.admission.settings import AdmissionSettings
from gateway.admission.state import AdmissionState, describe
from gateway.admission.waiting import WaitingTenants
from gateway.core.call import Call
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass, at_most
from gateway.errors import ClientGone, GatewayError, ShuttingDown
from gateway.telemetry.metrics import Metrics

# A timer may come a little early by our clock; then it is set again, and not for less than this.
_LEAST_TIMER_S = 0.001
LEFT = "left"


class _Waiter(NamedTuple):
    call: Call
    turn: asyncio.Future[None]


class Gate:
    """Turns for calls: at once, later, or a refusal.

    queue full → Overloaded (429) · deadline before the expected turn → DeadlineUnmeetable (429) · more urgent classes
    need the room → Shed (503) · waited too long → QueueTimeout (408) · closing → ShuttingDown (503) ·
    larger than the gate itself → InvalidRequest (400), since waiting could never help

    `strain`: overload of the backends, from 0 to 1 (gateway.admission.scheduler). `clock`: monotonic seconds.
    """

    def __init__(
        self,
        settings: AdmissionSettings,
        metrics: Metrics,
        strain: Callable[[], float] = no_strain,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.scheduler = Scheduler(settings, strain)
        self._adaptive = (
            AdaptiveLimit(settings.min_running_tokens, settings.max_running_tokens)
            if settings.limit == "adaptive"
            else None
        )
        self._running: dict[Ticket, Call] = {}
        self._waiting: dict[Ticket, _Waiter] = {}
        heartened = PRIORITY_CLASSES[PRIORITY_CLASSES.index(settings.heartbeat_class) :]
        self._heartened = heartened if settings.heartbeat_s else ()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._empty = asyncio.Event()
        self._empty.set()
        self._refused: Counter[tuple[PriorityClass, str]] = Counter()
        self.closed = False
        self._measure(metrics)

    @property
    def saturation(self) -> float:
        """0: idle, 1: the next request waits."""
        return self.scheduler.saturation

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self.scheduler.queued

    def snapshot(self) -> AdmissionState:
        return describe(self.scheduler, self._refused, self._clock())

    @asynccontextmanager
    async def turn(self, call: Call) -> AsyncIterator[None]:
        """Hold `call.cost` tokens and one place while inside."""
        ticket = self._arrive(call)
        if ticket.state == "running":
            self._grant(ticket, call)
        else:
            await self._wait(ticket, call)
        try:
            yield
        finally:
            self._settle(ticket, call)
            self._release(ticket)

    def close(self) -> None:
        """Refuse newcomers and those who wait; those who run may go on."""
        self.closed = True
        self._turn_away(self.scheduler.empty(self._clock()), lambda _: _closing())

    async def drained(self) -> None:
        """Returns when nothing runs any more."""
        await self._empty.wait()

    def end_all(self, error: GatewayError) -> None:
        """Stop whatever still runs; its clients are told `error`."""
        for call in self._running.values():
            call.limit.end(error)

    def _arrive(self, call: Call) -> Ticket:
        now = self._clock()
        call.priority_class = call.priority_class or self._default_class(call)
        ticket = _ticket(call, now, call.priority_class)
        try:
            if self.closed:
                raise _closing()
            self.scheduler.arrive(ticket, now)
        except GatewayError as error:
            self._count_refusal(ticket, error.code)
            raise
        call.queue_position = ticket.position
        return ticket

    def _default_class(self, call: Call) -> PriorityClass:
        """Of a call that names none; no more urgent than its key allows."""
        default = self._settings.default_class
        return at_most(default, call.caller.max_priority) if call.caller else default

    async def _wait(self, ticket: Ticket, call: Call) -> None:
        """A turn can be granted in the very moment in which its waiter leaves: then it is handed on."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = _Waiter(call, turn)
        self._dispatch()
        self._set_timer()
        try:
            await self._patiently(ticket, call, turn)
        except (asyncio.CancelledError, ClientGone):
            if turn.done() and not turn.cancelled():
                turn.exception()  # a refusal that came too late to be told
            call.mark("admission")
            self._leave(ticket)
            raise
        finally:
            del self._waiting[ticket]

    async def _patiently(self, ticket: Ticket, call: Call, turn: asyncio.Future[None]) -> None:
        """Until the turn comes, with a heartbeat for the client now and then. Raises ClientGone, and refusals."""
        tell = call.heartbeat if ticket.priority_class in self._heartened else None
        while tell is not None and not (await asyncio.wait((turn,), timeout=self._settings.heartbeat_s))[0]:
            await tell(self.scheduler.lines[ticket.priority_class].place(ticket))
        await turn

    def _leave(self, ticket: Ticket) -> None:
        if ticket.state == "waiting":
            self._count_refusal(ticket, LEFT)
            self.scheduler.cancel(ticket, self._clock())
            self._dispatch()
        elif ticket.state == "running":
            self._count_refusal(ticket, LEFT)
            self.scheduler.cancel(ticket, self._clock())
            self._release(ticket)

    def _grant(self, ticket: Ticket, call: Call) -> None:
        self._running[ticket] = call
        self._empty.clear()
        self._wait_seconds[ticket.priority_class].observe(ticket.started - ticket.arrived)

    def _settle(self, ticket: Ticket, call: Call) -> None:
        """Cached tokens of the prompt were not computed, so they are not charged."""
        usage = call.usage
        if self._adaptive is not None:
            self._adaptive.observe(Speed.of(call, ticket.started), self.scheduler.running_tokens)
            self.scheduler.token_limit = self._adaptive.limit
        prompt = usage.prompt - usage.cached
        if not usage.prompt and call.tokens_seen:  # ended early, so nobody said
            prompt = ticket.prompt
        self.scheduler.finish(ticket, self._clock(), prompt, usage.completion or call.tokens_seen)

    def _release(self, ticket: Ticket) -> None:
        del self._running[ticket]
        self._dispatch()
        if not self._running:
            self._empty.set()

    def _dispatch(self) -> None:
        """A future that is already done belongs to one who just left: it hands its turn on itself."""
        if not self.scheduler.queued:
            return
        for ticket in self.scheduler.dispatch(self._clock()):
            call, turn = self._waiting[ticket]
            self._grant(ticket, call)
            if not turn.done():
                turn.set_result(None)

    def _set_timer(self) -> None:
        """One timer for all who wait, at the earliest end of patience."""
        at = self.scheduler.next_expiry
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        delay = max(_LEAST_TIMER_S, at - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._turn_away(self.scheduler.expire(self._clock()), self.scheduler.timed_out)
        self._dispatch()
        self._set_timer()

    def _turn_away(self, tickets: Iterable[Ticket], why: Callable[[Ticket], GatewayError]) -> None:
        for ticket in tickets:
            (call, turn), error = self._waiting[ticket], why(ticket)
            if not turn.done():
                call.mark("admission")
                self._count_refusal(ticket, error.code)
                turn.set_exception(error)

    def _count_refusal(self, ticket: Ticket, reason: str) -> None:
        self._refused[ticket.priority_class, reason] += 1
        self._refusals(ticket.priority_class, reason).inc()

    def _measure(self, metrics: Metrics) -> None:
        scheduler = self.scheduler
        metrics.saturation.set_function(lambda: scheduler.saturation)
        metrics.running.set_function(lambda: scheduler.running)
        metrics.running_tokens.set_function(lambda: scheduler.running_tokens)
        metrics.pressure.set_function(lambda: scheduler.pressure)
        metrics.throughput.set_function(lambda: scheduler.throughput or 0.0)
        metrics.token_limit.set_function(lambda: scheduler.token_limit)
        for name, line in scheduler.lines.items():
            _measure_line(metrics, name, line)
        metrics.registry.register(WaitingTenants(scheduler.lines))
        self._wait_seconds = {name: metrics.wait_seconds.labels(name) for name in scheduler.lines}
        self._refusals = cache(metrics.refusals.labels)


def _measure_line(metrics: Metrics, name: str, line: Line) -> None:
    metrics.queued.labels(name).set_function(lambda: len(line))
    metrics.queued_tokens.labels(name).set_function(lambda: line.tokens)
    metrics.waiting_tenants.labels(name).set_function(lambda: line.counters.active)


def _ticket(call: Call, now: float, priority_class: PriorityClass) -> Ticket:
    """The deadline in seconds of the gate's clock."""
    caller = call.caller
    return Ticket(
        priority_class,
        caller.tenant if caller else "",
        min(call.prompt_cost, call.cost),
        call.cost - min(call.prompt_cost, call.cost),
        now + call.limit.remaining,
        caller.weight if caller else 1.0,
    )


def _closing() -> ShuttingDown:
    return ShuttingDown("the server is shutting down: try again", retry_after=1.0)

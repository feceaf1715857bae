"""Who runs now, who waits, who is refused. Pure: time comes in with each call, and the same history gives the same
decisions, bit for bit.

Three questions, from the outside in: which class (weighted deficit round robin, `drr`), which of its tenants (virtual
token counters, `vtc`), which of its requests (earliest deadline, then first come, `line`). Who arrives while nobody
waits, and fits, runs at once. No class and no tenant can starve, by construction; within a tenant, where deadlines
could do that, requests age (`line`).

**Head of line.** When the one whose turn it is does not fit, it is *reserved*: what becomes free is kept for it.
Meanwhile smaller ones that fit may start before it, the smallest of the most urgent class first, so that the room is
used; but altogether at most `overtake_tokens` of them, and neither may their class fall that deep into debt, nor a
tenant of the same class get that far ahead of the reserved one's. After that all wait until it fits. So a large request
waits for those who run at most, and the shares of classes and tenants keep their bounds.

**Ceilings.** The engine prefers urgent requests, and pauses others for them, but only once they are there. So a class
and those less urgent than it may together hold only its ceiling's part of the capacity, requests and tokens alike: a
flood of batch work never takes the last places. A class at its ceiling waits, and holds up nobody else meanwhile.

**Saturation, pressure, shedding.** Saturation is work in flight over capacity: at 1 the next request waits, which is
what the queue is for, so nothing is shed for it. Shedding goes by *pressure*, which says that the queues do not
suffice: for a class, the fill of the fullest queue of a *more urgent* class, or the strain of the backends that the
port `strain` reports, whichever is more. A class is never shed for its own queue: that has its own bound, which answers
429. `strain` must tell of overload that is not in the gate's own books (requests that wait inside the engine, a KV
cache that is nearly full), and not of a backend that is merely busy; without it, queues alone decide.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile

from gateway.admission.drr import DeficitRoundRobin
from gateway.admission.line import Line, Ticket
from gateway.admission.pace import Pace
from gateway.admission.settings import AdmissionSettings
from gateway.admission.vtc import VirtualCounters
from gateway.core.identity import PriorityClass
from gateway.errors import DeadlineUnmeetable, InvalidRequest, Overloaded, QueueTimeout, Shed


def no_strain() -> float:
    return 0.0


class Scheduler:
    """`arrive` → waits or runs · `dispatch` → who starts · `finish`, `cancel`, `expire`, `empty` → who ends.

    After any of them but `arrive` that lets somebody run, call `dispatch`. `strain`: overload of the backends, from 0
    to 1. `token_limit` may be lowered at any time; what runs already goes on.
    """

    def __init__(self, settings: AdmissionSettings, strain: Callable[[], float] = no_strain) -> None:
        terms = settings.terms()
        self._settings = settings
        self._strain = strain
        self.lines = {name: Line(one, VirtualCounters()) for name, one in terms.items()}
        self._drr = DeficitRoundRobin({name: one.weight for name, one in terms.items()}, settings.quantum_tokens)
        self._pace = Pace()
        self._reserved: Ticket | None = None
        self._overtaken = 0
        self._arrivals = 0
        self.token_limit = settings.max_running_tokens
        self.running = 0
        self.running_tokens = 0
        self.queued = 0

    @property
    def saturation(self) -> float:
        """0: idle, 1: the next request waits."""
        return min(1.0, max(self.running / self._settings.max_running, self.running_tokens / self.token_limit))

    @property
    def pressure(self) -> float:
        """0: nobody waits, 1: a queue is full or the backends are overloaded."""
        return min(1.0, max(self._strain(), *(self._fill(line) for line in self.lines.values())))

    @property
    def throughput(self) -> float | None:
        """Tokens of turns that end, a second; None until it was measured."""
        return self._pace.rate

    @property
    def reserved(self) -> Ticket | None:
        """Whose turn it is and who does not fit yet."""
        return self._reserved

    @property
    def deficits(self) -> Mapping[PriorityClass, float]:
        """Tokens that each class may start before its next quantum; negative: a debt."""
        return self._drr.deficits

    @property
    def next_expiry(self) -> float | None:
        """When `expire` has something to do."""
        return min(
            (line.oldest.arrived + line.terms.timeout_s for line in self.lines.values() if line.oldest is not None),
            default=None,
        )

    def arrive(self, ticket: Ticket, now: float) -> None:
        """Afterwards it is running or waiting. Raises InvalidRequest, Shed, Overloaded, DeadlineUnmeetable."""
        line = self.lines[ticket.priority_class]
        self._refuse_what_never_fits(ticket)
        self._shed(ticket, line)
        ticket.arrived = now
        self._arrivals += 1
        ticket.number = self._arrivals
        if not self.queued and self._open(ticket.priority_class) and self._fits(ticket):
            ticket.account = line.counters.pass_by(ticket.tenant, ticket.weight)
            self._start(ticket, now)
        else:
            self._refuse(ticket, line, now)
            line.add(ticket)
            self._count(1, now)

    def dispatch(self, now: float) -> list[Ticket]:
        """Those who start now, in this order."""
        started: list[Ticket] = []
        while self.queued and self.running < self._settings.max_running:
            ticket = self._starter()
            if ticket is None:
                break
            self._drr.spend(ticket.priority_class, ticket.cost)
            self._unqueue(ticket, now)
            self._start(ticket, now)
            started.append(ticket)
        return started

    def finish(self, ticket: Ticket, now: float, prompt: int = 0, answer: int = 0) -> None:
        """Its turn is over; `prompt`, `answer`: tokens that were really computed."""
        ticket.state = "ended"
        self.running -= 1
        self.running_tokens -= ticket.cost
        self._pace.ended(ticket.cost, now)
        line, account = self.lines[ticket.priority_class], ticket.account
        line.running -= 1
        line.running_tokens -= ticket.cost
        if account is not None:
            account.running -= 1
            line.counters.charge(account, self._service(prompt, answer) - ticket.charged)

    def cancel(self, ticket: Ticket, now: float) -> None:
        """Nobody waits for it any more; also for one that runs and has done nothing."""
        if ticket.state == "waiting":
            self._unqueue(ticket, now)
        elif ticket.state == "running":
            self.finish(ticket, now)

    def expire(self, now: float) -> list[Ticket]:
        """Those who waited as long as their class may, taken out of the queue."""
        expired: list[Ticket] = []
        for line in self.lines.values():
            while (oldest := line.oldest) is not None and oldest.arrived + line.terms.timeout_s <= now:
                self._unqueue(oldest, now)
                expired.append(oldest)
        return expired

    def empty(self, now: float) -> list[Ticket]:
        """All who wait, taken out of the queue."""
        waiting = [ticket for line in self.lines.values() for ticket in line]
        for ticket in waiting:
            self._unqueue(ticket, now)
        return waiting

    def timed_out(self, ticket: Ticket) -> QueueTimeout:
        """What an expired one is told."""
        line = self.lines[ticket.priority_class]
        return QueueTimeout(
            f"no turn came within {line.terms.timeout_s:g} s: the server is busy", retry_after=self.retry_after(line)
        )

    def retry_after(self, line: Line) -> float:
        """Seconds until what waits in this class has had its turns, as far as that is known."""
        wait = self._drain_time(self._queued_tokens(), line.tokens, self._class_share(line))
        settings = self._settings
        return min(max(wait or 0.0, settings.min_retry_after_s), settings.max_retry_after_s)

    def expected_wait(self, ticket: Ticket, ahead: int) -> float | None:
        """Seconds; `ahead`: tokens of its own tenant that go first. None until the throughput is known."""
        line = self.lines[ticket.priority_class]
        share = self._class_share(line) * line.share(ticket)
        return self._drain_time(self._queued_tokens() + ticket.cost, ahead + ticket.cost, share)

    def _refuse_what_never_fits(self, ticket: Ticket) -> None:
        most = self._settings.max_running_tokens
        if ticket.cost > most:
            raise InvalidRequest(
                f"the request needs {ticket.cost} tokens at once, and this server handles {most}: "
                "ask for fewer choices or prompts",
                code="request_too_large",
            )

    def _shed(self, ticket: Ticket, line: Line) -> None:
        if self._pressure_on(ticket.priority_class) >= line.terms.shed_at:
            raise Shed(
                f"the server keeps its room for more urgent requests than class {ticket.priority_class}",
                retry_after=self.retry_after(line),
            )

    def _refuse(self, ticket: Ticket, line: Line, now: float) -> None:
        """It would have to wait: is there room for that, and time?"""
        settings = self._settings
        if not line.has_room(ticket, settings.max_queued, settings.max_queued_tokens):
            raise Overloaded("the server is busy and its queue is full", retry_after=self.retry_after(line))
        left = ticket.deadline - now
        wait = self.expected_wait(ticket, line.load(ticket.tenant)[1])
        if wait is not None and wait > left:  # exactly who goes first takes longer to count, so only now
            wait = self.expected_wait(ticket, line.ahead(ticket))
        if wait is not None and wait > left:
            raise DeadlineUnmeetable(
                f"a turn is expected in {wait:.1f} s, and the deadline is in {max(0.0, left):.1f} s",
                retry_after=self.retry_after(line),
            )

    def _starter(self) -> Ticket | None:
        """Who starts now: whose turn it is, if it fits, else one that may pass it."""
        if self._reserved is None:
            self._reserved, self._overtaken = self._next(self.lines), 0
        reserved = self._reserved
        if reserved is None:
            return None
        if self._open(reserved.priority_class):
            if self._fits(reserved):
                return reserved
        else:  # its class is at its ceiling, which does not concern the more urgent ones
            urgent = self._next(takewhile(reserved.priority_class.__ne__, self.lines))
            if urgent is not None and self._fits(urgent):
                return urgent
        return self._overtaker(reserved)

    def _next(self, names: Iterable[PriorityClass]) -> Ticket | None:
        heads = {name: head for name in names if self._open(name) and (head := self.lines[name].head()) is not None}
        return heads[self._drr.pick({name: max(1, head.cost) for name, head in heads.items()})] if heads else None

    def _open(self, name: PriorityClass) -> bool:
        """Whether the class, and those less urgent, hold less than its ceiling."""
        ceiling = self.lines[name].terms.ceiling
        requests = tokens = 0
        for other in reversed(self.lines):
            requests += self.lines[other].running
            tokens += self.lines[other].running_tokens
            if other == name:
                break
        return requests < ceiling * self._settings.max_running and tokens < ceiling * self.token_limit

    def _overtaker(self, reserved: Ticket) -> Ticket | None:
        """The most urgent class's smallest request, if it fits and may start before the reserved one."""
        for name, line in self.lines.items():
            smallest = line.smallest() if self._open(name) else None
            if smallest is not None and self._fits(smallest) and self._may_overtake(smallest, reserved):
                self._overtaken += smallest.cost
                return smallest
        return None

    def _may_overtake(self, ticket: Ticket, reserved: Ticket) -> bool:
        most = self._settings.overtake_tokens
        if self._overtaken + ticket.cost > most:
            return False
        if ticket.priority_class != reserved.priority_class:
            return self._drr.deficits[ticket.priority_class] - ticket.cost >= -most
        if ticket.account is None or reserved.account is None:
            return False
        ahead = ticket.account.counter - reserved.account.counter
        return ticket.account is reserved.account or ahead + self._prediction(ticket) / ticket.account.weight <= most

    def _fits(self, ticket: Ticket) -> bool:
        """One that is larger than the present limit runs alone."""
        if self.running >= self._settings.max_running:
            return False
        return self.running_tokens + ticket.cost <= self.token_limit or not self.running

    def _start(self, ticket: Ticket, now: float) -> None:
        ticket.state = "running"
        ticket.started = now
        self.running += 1
        self.running_tokens += ticket.cost
        line = self.lines[ticket.priority_class]
        line.running += 1
        line.running_tokens += ticket.cost
        if ticket.account is not None:
            ticket.account.running += 1
            ticket.charged = self._prediction(ticket)
            line.counters.charge(ticket.account, ticket.charged)

    def _unqueue(self, ticket: Ticket, now: float) -> None:
        line = self.lines[ticket.priority_class]
        line.remove(ticket)
        if ticket is self._reserved:
            self._reserved = None
        if not line:
            self._drr.stopped(ticket.priority_class)
        self._count(-1, now)

    def _count(self, number: int, now: float) -> None:
        self.queued += number
        self._pace.waited_for(now, waiting=self.queued > 0)

    def _prediction(self, ticket: Ticket) -> float:
        return self._service(ticket.prompt, ticket.answer)

    def _service(self, prompt: int, answer: int) -> float:
        return self._settings.prompt_weight * prompt + self._settings.output_weight * answer

    def _pressure_on(self, name: PriorityClass) -> float:
        pressure = self._strain()
        for other, line in self.lines.items():
            if other == name:
                break
            pressure = max(pressure, self._fill(line))
        return pressure

    def _fill(self, line: Line) -> float:
        if not line:
            return 0.0
        settings = self._settings
        return max(len(line) / settings.max_queued, line.tokens / max(1, settings.max_queued_tokens))

    def _queued_tokens(self) -> int:
        return sum(line.tokens for line in self.lines.values())

    def _class_share(self, line: Line) -> float:
        return line.terms.weight / sum(one.terms.weight for one in self.lines.values() if one or one is line)

    def _drain_time(self, everything: int, own: int, share: float) -> float | None:
        """Own tokens at their share of the throughput, but never longer than everything takes."""
        rate = self._pace.rate
        return None if not rate else min(everything / rate, own / (rate * share))
